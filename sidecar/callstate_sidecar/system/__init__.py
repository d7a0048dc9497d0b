"""The interfaces to the operating system and systemd."""
