"""The rules of sessions, ownership, liveness and events: no I/O, and time is passed in."""
