"""`callstate top`: a live view of the calls of one daemon, in a terminal."""
