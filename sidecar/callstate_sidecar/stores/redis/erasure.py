"""Erasing what Redis has of a deleted session beside its tombstone, and what an erasure does not reach."""

from __future__ import annotations

from typing import Final

from callstate_sidecar.stores.hosts import HostRegistry
from callstate_sidecar.stores.redis.client import ScriptClient
from callstate_sidecar.stores.redis.layout import Layout, id_bytes

SCANNED_KEYS: Final = 1000
"""Keys that Redis looks at for each reply: less than a millisecond."""

NAMED_HOSTS: Final = 20
"""How many other hosts are named."""

FILES: Final = (
    "the files of Redis and of its replicas: append-only files until they are rewritten, dumps until the next one; "
    "its SLOWLOG"
)


async def erase(client: ScriptClient, keys: Layout, session_id: str) -> None:
    """Remove what other software had written and was set aside, and the id from the sets of calls.

    Which call ids the session had is not known any more, so all keys are looked through.

    Args:
        client: of the Redis.
        keys: of the sessions.
        session_id: whose.

    Raises:
        StoreError: that could not be done.
    """
    await client.command("DEL", keys.foreign(session_id))
    cursor = ""
    while True:
        calls, cursor = await client.scan(cursor, "MATCH", keys.calls, "COUNT", SCANNED_KEYS, "TYPE", "set")
        if calls:
            await client.commands(*(("SREM", call, id_bytes(session_id)) for call in calls))
        if not cursor:
            return


async def remains(hosts: HostRegistry) -> list[str]:
    """Where a session's bytes may be after its erasure, in words.

    Raises:
        StoreError: the other hosts can't be looked up.
    """
    others = (await hosts.look_around(NAMED_HOSTS)).counters
    if not others:
        return [FILES]
    names = ", ".join(sorted(others)) + (" …" if len(others) == NAMED_HOSTS else "")
    return [FILES, f"the journals of other hosts that have had it; erase it there, too: {names}"]
