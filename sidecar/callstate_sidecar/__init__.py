"""callstated: the sidecar daemon that keeps the state of live calls."""
