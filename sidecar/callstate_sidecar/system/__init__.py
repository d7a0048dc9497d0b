"""What the daemon asks of the operating system and of systemd."""
