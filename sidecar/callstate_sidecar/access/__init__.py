"""Access: who is at the other end of a connection, and what that user may do."""
