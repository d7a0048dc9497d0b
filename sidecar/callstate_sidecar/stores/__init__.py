"""The stores behind: each a SessionStore of its own, and what the daemon's writer writes to."""
