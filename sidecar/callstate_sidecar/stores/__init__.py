"""The stores that sessions are written to: Redis and SQLite, each also usable by itself, without a daemon."""
