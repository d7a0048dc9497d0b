"""Heartbeats of held calls: when they are due, and who sends them."""
