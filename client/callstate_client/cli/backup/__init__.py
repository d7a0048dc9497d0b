"""`callstate export` and `callstate import`: calls as lines of JSON, out of a running daemon and into one."""
