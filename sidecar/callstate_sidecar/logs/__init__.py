"""What the daemon logs: each line has an event name; text, JSON or the fields of systemd's journal; repetition is
limited."""
