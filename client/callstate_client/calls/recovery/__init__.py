"""Taking over the calls of workers that died."""
