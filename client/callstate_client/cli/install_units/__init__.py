"""`callstate install-units`: systemd's units for the callstated that is installed beside this program."""
