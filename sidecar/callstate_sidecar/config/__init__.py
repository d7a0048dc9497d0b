"""The configuration: every key described once, loaded from flags, variables and a file."""
