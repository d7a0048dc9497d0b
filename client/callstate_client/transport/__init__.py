"""Connections to the daemon, for asyncio and for blocking programs: finding the socket, retries, forks."""
