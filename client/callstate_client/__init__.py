"""callstate: keep the state of live phone calls where a crash can't take it."""
