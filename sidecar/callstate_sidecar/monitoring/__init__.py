"""Figures of a running daemon for Prometheus, on an address of their own: `metrics.listen`."""
