"""Erasing what Redis has of a deleted session beside its tombstone."""

from __future__ import annotations

from typing import Final

from callstate_sidecar.stores.redis.client import ScriptClient
from callstate_sidecar.stores.redis.layout import Layout, id_bytes

SCANNED_KEYS: Final = 1000
"""Keys that Redis looks at for each reply: less than a millisecond."""


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
