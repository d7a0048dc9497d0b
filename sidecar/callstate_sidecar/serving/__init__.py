"""Serving clients: listener, connections, requests, and the group of a loop turn that is committed together."""
