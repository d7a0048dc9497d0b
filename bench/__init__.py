"""Benchmarks of callstate against its alternatives: `make bench-quick` and `make bench`."""
