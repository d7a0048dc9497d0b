"""The keys that all sessions share, on a cluster.

On a single server the scripts that write a session keep the shared keys (the active set, the heartbeats, the host's
set and that of the call) in the same step. On a cluster those are in other slots than the session. So ids are added
to the sets before a session is written, and removed after it: if a crash comes between, there is an id too many,
which meta contradicts, and never one too few.

Ids without a document are removed by whoever lists, and a new session is one between the two steps. So its id is
added to the active set once more when it is written, and whoever removes ids looks at their documents once more and
adds those that have appeared: whichever comes last sees what the other did.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from callstate_client.engine.sessions.writes import Patch, Write
from callstate_sidecar.stores.backend import WriteOutcome, WriteResult
from callstate_sidecar.stores.redis.client import ScriptClient
from callstate_sidecar.stores.redis.errors import NodeAwayError
from callstate_sidecar.stores.redis.layout import Layout, id_bytes, id_text


class ClusterSets:
    """The shared keys of a cluster.

    Args:
        client: runs the commands.
        host_id: whose sessions are written.
        ttl_ms: how long the keys stay after their last use, milliseconds; longer TTLs are left alone.
    """

    def __init__(self, client: ScriptClient, keys: Layout, host_id: str, ttl_ms: int) -> None:
        self._client = client
        self._keys = keys
        self._host_id = host_id
        self._ttl_ms = ttl_ms

    async def add(self, batch: Iterable[Write]) -> set[str]:
        """Add sessions that are about to be written as active.

        Returns:
            the ids of those that could not be added, because a key's primary does not answer while others do.
        """
        keys, ids, calls = self._keys, list[bytes](), defaultdict[bytes, list[bytes]](list)
        beats: list[bytes | int] = []
        for write in batch:
            if isinstance(write, Patch) or write.document is None:
                continue  # what is patched is in the sets
            raw = id_bytes(write.session_id)
            if write.call_id:
                calls[keys.call(write.call_id)].append(raw)
            if write.active:
                ids.append(raw)
                beats += (write.beat_ms, raw)
        own = keys.host_sessions(self._host_id)
        added = [*calls.values()]
        commands: list[tuple[Any, ...]] = [("SADD", key, *some) for key, some in calls.items()]
        if ids:
            commands += (("SADD", keys.active, *ids), ("SADD", own, *ids), ("ZADD", keys.beats, "GT", *beats))
            added += (ids, ids, ids)
        renewals = self._renewals([*calls, own, keys.beats] if commands else [])
        replies = await self._client.try_commands(*commands, *renewals)
        failed = (some for some, reply in zip(added, replies, strict=False) if isinstance(reply, NodeAwayError))
        return {id_text(raw) for some in failed for raw in some}

    async def settle(self, batch: Sequence[Write], results: list[WriteResult]) -> None:
        """Add sessions that were written as active once more, and remove those written as ended or deleted. Where
        that is impossible, because a key's primary
        does not answer while others do, their results become AWAY: they are written again."""
        keys = self._keys
        left, there = dict[bytes, int](), list[bytes]()
        for index, (write, result) in enumerate(zip(batch, results, strict=True)):
            if result.outcome is not WriteOutcome.WRITTEN or isinstance(write, Patch):
                continue
            if write.active and write.document is not None:
                there.append(id_bytes(write.session_id))
            else:
                left[id_bytes(write.session_id)] = index
        if there:
            await self._client.try_commands(("SADD", keys.active, *there))
        if left:
            own = keys.host_sessions(self._host_id)
            replies = await self._client.try_commands(
                ("SREM", keys.active, *left), ("SREM", own, *left), ("ZREM", keys.beats, *left)
            )  # fmt: skip
            away = next((reply for reply in replies if isinstance(reply, NodeAwayError)), None)
            for index in left.values() if away else ():
                results[index] = WriteResult(WriteOutcome.AWAY, str(away))

    async def write_beats(self, beats: Mapping[str, int]) -> None:
        """Raise the last heartbeats of sessions that have one."""
        pairs = [word for session_id, at_ms in beats.items() for word in (at_ms, id_bytes(session_id))]
        key = self._keys.beats
        await self._client.commands(("ZADD", key, "XX", "GT", *pairs), *self._renewals([key]))

    async def last_beats(self, session_ids: Sequence[str]) -> list[Any]:
        """The scores of these sessions, None for none."""
        key = self._keys.beats
        return await self._client.commands(*(("ZSCORE", key, id_bytes(name)) for name in session_ids))

    async def live_page(self, cursor: str, count: int) -> tuple[list[bytes], str]:
        """A page of the active ids whose documents exist; the others are removed."""
        keys = self._keys
        ids, cursor = await self._client.members(keys.active, cursor, count)
        exists = await self._client.commands(*(("EXISTS", keys.prefix + raw) for raw in ids))
        await remove_ghosts(self._client, keys, [raw for raw, there in zip(ids, exists, strict=True) if not there])
        return [raw for raw, there in zip(ids, exists, strict=True) if there], cursor

    async def renew(self, call_ids: Iterable[str]) -> None:
        """Renew the TTLs of the host's set and of these calls' sets."""
        keys = self._keys
        renewals = self._renewals([keys.host_sessions(self._host_id), *map(keys.call, call_ids)])
        await self._client.try_commands(*renewals)

    def _renewals(self, keys: Iterable[bytes]) -> list[tuple[Any, ...]]:
        """TTLs only grow, because another writer may have set a longer one; a key without one gets it."""
        return [("PEXPIRE", key, self._ttl_ms, how) for key in keys for how in ("NX", "GT")]


async def remove_ghosts(client: ScriptClient, keys: Layout, ids: Sequence[bytes]) -> None:
    """Remove ids without a document from the shared keys of a cluster, unless they have one by now."""
    if not ids:
        return
    await client.commands(("SREM", keys.active, *ids), ("ZREM", keys.beats, *ids))
    exists = await client.commands(*(("EXISTS", keys.prefix + raw) for raw in ids))
    back = [raw for raw, there in zip(ids, exists, strict=True) if there]
    if back:
        await client.commands(("SADD", keys.active, *back))
