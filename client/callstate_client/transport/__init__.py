"""Ways to the daemon: finding its socket, connections for asyncio and for blocking programs, retries, forks."""
