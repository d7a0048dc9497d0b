"""How fast callstate is, beside what one would use instead: `make bench-quick` and `make bench`."""
