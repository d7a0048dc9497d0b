"""What a worker holds: calls, their outboxes and heartbeats."""
