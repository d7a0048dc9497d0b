"""RedisBackend: the daemon's interface to Redis. Each write runs the fencing script."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from redis.exceptions import ResponseError

from callstate_client.engine.sessions.stored import (
    UNREADABLE,
    Query,
    StoreDownError,
    StoredSession,
    StoreError,
    StoreRefusingError,
)
from callstate_client.engine.sessions.stored_meta import UnreadableMetaError
from callstate_client.engine.sessions.writes import Write
from callstate_client.protocol.results import Finding
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.slices import SLICE_S, Slices
from callstate_sidecar.stores.backend import (
    DOCUMENT_BYTES,
    TOGETHER_BYTES,
    Deviation,
    Flaw,
    StoredVersion,
    WriteOutcome,
    WriteResult,
)
from callstate_sidecar.stores.encoding import is_layout_name, ttl_ms
from callstate_sidecar.stores.fencing import Stamp, superseded_by
from callstate_sidecar.stores.hosts import HostRegistry
from callstate_sidecar.stores.redis.client import ScriptCall, ScriptClient, connect_each
from callstate_sidecar.stores.redis.cluster_sets import ClusterSets
from callstate_sidecar.stores.redis.comparison import Comparison
from callstate_sidecar.stores.redis.erasure import erase, remains
from callstate_sidecar.stores.redis.errors import NodeAwayError, describe, fault_of_all, is_of_key, translate
from callstate_sidecar.stores.redis.hosts import RedisHosts
from callstate_sidecar.stores.redis.inspection import Inspection
from callstate_sidecar.stores.redis.layout import (
    DEFAULT_PREFIX,
    STAMP_BYTES,
    Layout,
    beat_ms,
    id_bytes,
    id_text,
    parse_meta,
)
from callstate_sidecar.stores.redis.mark import Marks
from callstate_sidecar.stores.redis.scripts import READ
from callstate_sidecar.stores.redis.store import IDS_A_PAGE, live_page
from callstate_sidecar.stores.redis.write_calls import WriteCall, WriteCalls, replies_of
from callstate_sidecar.stores.redis.write_scripts import BEATS

log = EventLog(__name__)

_BEATS_PER_CALL: Final = 1000
"""A running script blocks all other clients of the server, this one for about a millisecond."""

CONFIRM_S: Final = 5.0
"""How long a batch may take to reach the server's disk: with `appendfsync everysec` it takes a second or two."""

SCANNED_KEYS: Final = 200
"""Keys scanned in one step of a search: between steps Redis serves other clients, and the loop other work."""

_READ_CONNECTIONS: Final = 4
"""Reads are cache misses; more than one connection keeps a large document from delaying others."""


class RedisBackend:
    """Writes over one dedicated connection and reads over others, so that neither waits for the other; pings over
    one more.

    Args:
        url: `redis://`, `rediss://`, `unix:///path` or `host:port`.
        prefix: before every key; no braces.
        ttl_s: how long a session stays after its last write, seconds.
        timeout_s: longest wait for a read, and for each reply to a batch, seconds.
        host_id: the host to write where a session's meta names none.
        password: used if the URL has none.
        synced: a write counts only once it is in the server's append-only file on disk. A server that can't tell
            is trusted, with one warning.
        sync_required: one that can't tell is refused instead.
        document_bytes: longer documents are not read.

    Raises:
        ValueError: one of these is not as described.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl_s: float,
        timeout_s: float,
        host_id: str,
        prefix: str = DEFAULT_PREFIX,
        password: str | None = None,
        synced: bool = False,
        sync_required: bool = False,
        document_bytes: int = DOCUMENT_BYTES,
    ) -> None:
        self._document_bytes = document_bytes
        name = f"callstate:{host_id}"  # what CLIENT LIST shows
        writing, reading, pinging = connect_each(
            url, (1, _READ_CONNECTIONS, 1), timeout_s=timeout_s, password=password, name=name
        )
        self._writing = ScriptClient(writing, owned=True, confirms=sync_required)
        self._reading = ScriptClient(reading, owned=True, limit_s=timeout_s, confirms=sync_required)
        self._pinging = ScriptClient(pinging, owned=True, limit_s=timeout_s, confirms=sync_required)
        self._keys = Layout(prefix)
        self._ttl_ms = ttl_ms(ttl_s)
        self._host_id = host_id
        self._registry = RedisHosts(self._reading, self._keys, host_id, self._ttl_ms)
        self.hosts: HostRegistry | None = self._registry
        """The hosts that share this Redis."""
        self._marks = Marks(partial(self._keys.mark, host_id))
        clustered = self._writing.clustered
        self._sets, self._read_sets = (
            ClusterSets(client, self._keys, host_id, self._ttl_ms) if clustered else None
            for client in (self._writing, self._reading)
        )
        self._turn = asyncio.Lock()
        """To use the connection that writes. A batch may take longer than anybody waits for a connection, and that
        is no sign of a store that does not answer."""
        self._calls = WriteCalls(self._keys, host_id, self._ttl_ms, clustered=clustered)
        self._comparison = Comparison(
            self._reading, self._keys, host_id, self._ttl_ms, self._marks.of(b""), self._read_sets
        )
        self._inspection = Inspection(self._reading, self._keys, host_id, self._ttl_ms)
        self._confirms = _confirms(timeout_s) if synced or sync_required else []
        self._sync_required = sync_required
        self._unconfirmed = ""

    @property
    def name(self) -> str:
        """`redis`."""
        return "redis"

    @property
    def away(self) -> str:
        """Primaries of a cluster that do not answer while others do, in words; empty for none."""
        return self._writing.away

    @property
    def data_losses(self) -> int:
        """How often Redis was found to have lost writes; see mark.py."""
        return self._marks.losses

    async def check_for_loss(self) -> None:
        """Compare the mark, as each batch does."""
        async with self._turn:
            tags = await self._writing.slot_tags()
            calls = [self._marks.of(tag).call(with_run_id=True) for tag in tags]
            replies = await self._writing.run_each(calls)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise StoreRefusingError(describe(reply))
        self._marks.check(tags, calls, replies)

    async def read(self, session_id: str) -> StoredSession | None:
        """Read document and meta atomically, and the last beat."""
        keys = self._session_keys(session_id)
        reply = await self._reading.run(READ, keys, id_bytes(session_id), self._document_bytes)
        if self._read_sets is not None:
            (reply[2],) = await self._read_sets.last_beats([session_id])
        return _stored(reply)

    async def read_each(self, session_ids: Sequence[str]) -> Sequence[StoredSession | StoreError | None]:
        """As `read`, in one round trip; on a cluster in two."""
        replies = await self._read_replies(session_ids)
        return [_stored(reply) if isinstance(reply, list) else translate(reply) for reply in replies]

    async def write(self, batch: Sequence[Write]) -> list[WriteResult]:
        """Write a batch in one round trip, each session through the fencing script; on a cluster in three."""
        if not batch:
            return []
        async with self._turn:
            return await (self._write(batch) if self._sets is None else self._write_around(batch, self._sets))

    async def _write_around(self, batch: Sequence[Write], sets: ClusterSets) -> list[WriteResult]:
        """As `_write`, with the shared keys of a cluster."""
        held_back = await sets.add(batch)
        results = dict.fromkeys(held_back, WriteResult(WriteOutcome.AWAY, "a shared key's primary does not answer"))
        able = [write for write in batch if write.session_id not in held_back]
        written = await self._write(able)
        await sets.settle(able, written)
        results.update(zip((write.session_id for write in able), written, strict=True))
        return [results[write.session_id] for write in batch]

    async def _write(self, batch: Sequence[Write]) -> list[WriteResult]:
        tags = await self._writing.slot_tags()
        marks = [self._marks.of(tag).call() for tag in tags]
        slices, calls = Slices(SLICE_S / 2), list[WriteCall]()  # packing them begins in the turn of the last ones
        for call in self._calls.of(batch):
            calls.append(call)
            await slices.give_way()
        replies = await self._writing.run_each([*(each.call for each in calls), *marks], self._confirms)
        confirmed = replies[len(calls) + len(marks) :]
        self._marks.check(tags, marks, replies[len(calls) : len(calls) + len(marks)])
        by_session = replies_of(calls, replies)
        await self._check_faults(by_session)
        asked = len(self._confirms)
        for reply in confirmed[asked - 1 :: asked] if asked else []:  # the last of each server
            self._check_confirmed(reply)
        return [_result(reply) for reply in by_session]

    async def _check_faults(self, replies: Sequence[Any]) -> None:
        """Raise StoreRefusingError if an error among the replies is the whole server's, or a shared key's."""
        errors = [reply for reply in replies if isinstance(reply, ResponseError)]
        if not errors:
            return
        fault = fault_of_all(replies)
        if fault is not None:
            raise StoreRefusingError(describe(fault))
        if any(map(is_of_key, errors)):
            await self._check_shared_keys()

    async def _check_shared_keys(self) -> None:
        """Find out whether a key that all sessions share holds another type. A script does not say which key it
        failed at."""
        for key, kind in self._keys.shared(self._host_id).items():
            found = id_text(await self._reading.command("TYPE", key))
            if found not in (kind, "none"):
                raise StoreRefusingError(f"{id_text(key)} is a {found}, not a {kind}: rename or delete it")

    def _check_confirmed(self, reply: Any) -> None:
        """See that the batch is on the server's disk."""
        if isinstance(reply, ResponseError) and self._sync_required:
            raise StoreRefusingError(f"store.confirm is aof, and Redis can't confirm: {describe(reply)}")
        if isinstance(reply, ResponseError):
            why = describe(reply)
            if why != self._unconfirmed:
                log.warning(
                    "store_unconfirmed",
                    "Redis can't confirm what is on its disk (%s): a reply counts as confirmation",
                    why,
                )
            self._unconfirmed = why
        elif not reply[0]:
            raise StoreDownError(f"not on the server's disk within {CONFIRM_S:g} s")

    async def check(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Deviation]]:
        """Compare sessions with the store, and renew TTLs of which a quarter has passed."""
        return await self._comparison.check(sessions) if sessions else []

    async def examine(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Flaw]]:
        """What these sessions lack beside their documents."""
        return await self._inspection.sessions(sessions) if sessions else []

    def inspect(self, wall_us: Callable[[], int], *, repair: bool) -> AsyncIterator[Finding]:
        """What is not as it should be with the server, and the keys that all sessions share."""
        return self._inspection.server(wall_us, repair=repair)

    async def erase(self, session_id: str, timeout_s: float) -> list[str]:
        """Remove what was set aside, and the id from the sets of calls."""
        await erase(self._reading, self._keys, session_id)
        return await remains(self._registry)

    async def write_beats(self, beats: Mapping[str, int]) -> None:
        """Write last heartbeats of active sessions; an older one never replaces a newer one."""
        async with self._turn:
            await (self._write_beats(beats) if self._sets is None else self._sets.write_beats(beats))

    async def _write_beats(self, beats: Mapping[str, int]) -> None:
        items = list(beats.items())
        keys = [self._keys.active, self._keys.beats]
        calls: list[ScriptCall] = []
        for start in range(0, len(items), _BEATS_PER_CALL):
            args: list[Any] = [self._ttl_ms]
            for session_id, at_ms in items[start : start + _BEATS_PER_CALL]:
                args += (id_bytes(session_id), at_ms)
            calls.append(ScriptCall(BEATS, keys, args))
        for reply in await self._writing.run_each(calls) if calls else []:
            if isinstance(reply, ResponseError):
                raise StoreRefusingError(describe(reply))

    async def active_ids(self, cursor: str = "") -> tuple[list[str], str]:
        """A page of the active sessions of all hosts whose documents exist."""
        if self._read_sets is None:
            return await live_page(self._reading, self._keys, cursor)
        ids, cursor = await self._read_sets.live_page(cursor, IDS_A_PAGE)
        return [*map(id_text, ids)], cursor

    async def find(self, query: Query, cursor: str, limit: int) -> tuple[list[str], str]:
        """The ids of a page of sessions of all hosts that may match: from the call's set, from the active set, or
        by scanning the keys.

        Sessions that the Go package wrote are not in a call's set.
        """
        ids: list[bytes]
        if query.call_id is not None:
            ids, cursor = await self._reading.members(self._keys.call(query.call_id), cursor, limit)
        elif query.status not in (None, "ended"):
            ids, cursor = await self._reading.members(self._keys.active, cursor, limit)
        else:
            matching = ("MATCH", self._keys.documents, "COUNT", SCANNED_KEYS, "TYPE", "string")
            keys, cursor = await self._reading.scan(cursor, *matching)
            ids = [key.removeprefix(self._keys.prefix) for key in keys]
        return [name for name in map(id_text, ids) if not is_layout_name(name)], cursor

    async def _read_replies(self, names: Sequence[str]) -> list[Any]:
        """The replies of READ: document, meta and last beat of each."""
        calls = [ScriptCall(READ, self._session_keys(name), (id_bytes(name), TOGETHER_BYTES)) for name in names]
        replies = await self._reading.run_each(calls) if calls else []
        if self._read_sets is not None:
            for reply, beat in zip(replies, await self._read_sets.last_beats(names), strict=True):
                if isinstance(reply, list):
                    reply[2] = beat
        return replies

    def _session_keys(self, session_id: str) -> list[bytes]:
        """The keys of a script on a session: on a cluster without the shared ones."""
        return self._keys.session(session_id) if self._sets is None else self._keys.document(session_id)

    async def ping(self) -> None:
        """Return once Redis has answered, on a connection that no other command keeps busy."""
        await self._pinging.ping()

    async def close(self) -> None:
        """Close all connections; may be called twice."""
        await self._writing.close()
        await self._reading.close()
        await self._pinging.close()


def _stored(reply: Any) -> StoredSession | None:
    """Parse the reply of READ."""
    document, values, beat, foreign, unread_bytes = reply
    if document is None and not (values or foreign or unread_bytes):
        return None
    fields = dict(zip(values[::2], values[1::2], strict=True))
    try:
        meta = parse_meta(fields)
    except UnreadableMetaError:
        return UNREADABLE
    if foreign or unread_bytes:  # not absent, and nothing that anybody could read
        return StoredSession(b"", meta, beat_ms(beat), unread_bytes=0 if foreign else unread_bytes)
    if document is None and meta is None:
        return None
    if meta is None or document is None:
        return StoredSession(document, meta, beat_ms(beat))
    tombstone = meta.version if meta.deleted else 0
    meta.deleted = False  # written over the tombstone by software that knows no meta
    stamp = b"%d:%b" % (len(document), document[:STAMP_BYTES])
    is_ours = fields.get(b"stamp", b"") in (b"", stamp)
    return StoredSession(document, meta, beat_ms(beat), b"" if is_ours else stamp, tombstone)


def _confirms(timeout_s: float) -> list[tuple[Any, ...]]:
    """The WAITAOF commands to append to a batch.

    As many as it takes to wait for CONFIRM_S, each short enough to answer within the reply timeout. They have to
    run on the connection that wrote: WAITAOF covers the writes of its own connection only.
    """
    wait_s = timeout_s / 2
    return [("WAITAOF", 1, 0, max(1, round(wait_s * 1000)))] * math.ceil(CONFIRM_S / wait_s)


_TAKEN: Final = [1, 0]
_WRITTEN: Final = WriteResult(WriteOutcome.WRITTEN)


def _result(reply: Any) -> WriteResult:
    if reply == _TAKEN:
        return _WRITTEN
    if isinstance(reply, NodeAwayError):
        return WriteResult(WriteOutcome.AWAY, str(reply))
    if isinstance(reply, ResponseError):
        return WriteResult(WriteOutcome.REJECTED, describe(reply))
    code, *held = reply
    if code == 1:
        return WriteResult(WriteOutcome.WRITTEN, set_aside=held == [1])
    if code:
        return WriteResult(WriteOutcome.UNSEEN if code == 2 else WriteOutcome.NOT_BASE)
    host, epoch, version = held
    return WriteResult(
        WriteOutcome.SUPERSEDED, superseded_by(Stamp(host.decode("utf-8", "replace"), int(epoch), int(version)))
    )
