"""What a call has to say until it is acknowledged."""
