"""The calls of a batch: a script for each whole document, and one for many patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from callstate_client.engine.sessions.writes import Patch, Whole, Write
from callstate_sidecar.stores.redis.client import ScriptCall
from callstate_sidecar.stores.redis.layout import Layout, id_bytes, meta_changes, meta_fields
from callstate_sidecar.stores.redis.write_scripts import PATCH, WRITE

PATCHES_PER_CALL: Final = 32
"""A running script blocks all other clients of the server, by this many patches for less than a millisecond."""

BYTES_PER_CALL: Final = 64 * 1024
"""No patch is added to a call once its patches have this size."""


class WriteCall(NamedTuple):
    """One run of a script, and which of the batch's sessions it writes."""

    call: ScriptCall
    indexes: Sequence[int]


class WriteCalls:
    """Makes the calls of a batch.

    Args:
        keys: the layout.
        host_id: the host to write where a session's meta names none.
        ttl_ms: how long a session stays after its last write, milliseconds.
        clustered: all keys of a call have to be in one hash slot: the shared keys are left out, and each patch is
            a call of its own.
    """

    def __init__(self, keys: Layout, host_id: str, ttl_ms: int, *, clustered: bool) -> None:
        self._keys = keys
        self._host_id = host_id
        self._ttl_ms = ttl_ms
        self._clustered = clustered

    def of(self, batch: Sequence[Write]) -> Iterator[WriteCall]:
        """The calls that write these sessions, of which each is there once: their order does not matter."""
        indexes, patches, size = list[int](), list[Patch](), 0
        for index, write in enumerate(batch):
            if isinstance(write, Whole):
                yield WriteCall(self._whole(write), (index,))
                continue
            indexes.append(index)
            patches.append(write)
            size += write.size
            if self._clustered or len(patches) == PATCHES_PER_CALL or size >= BYTES_PER_CALL:
                yield WriteCall(self._patches(patches), indexes)
                indexes, patches, size = [], [], 0
        if patches:
            yield WriteCall(self._patches(patches), indexes)

    def _whole(self, write: Whole) -> ScriptCall:
        meta = write.meta
        host = meta.host or self._host_id
        deleted = write.document is None
        if self._clustered:
            keys = self._keys.document(write.session_id)
        else:
            keys = self._keys.session(write.session_id)
            keys += (self._keys.host_sessions(host), self._keys.call(write.call_id))
        return ScriptCall(WRITE, keys, [
            id_bytes(write.session_id), self._keys.prefix, host, meta.epoch, meta.version, self._ttl_ms,
            int(write.active and not deleted), write.beat_ms, int(deleted), write.document or b"",
            "" if write.seen is None else write.seen, int(bool(write.call_id) and not deleted), int(write.is_new),
            write.seen_stamp,
            *meta_fields(meta, deleted=deleted),
        ])  # fmt: skip

    def _patches(self, patches: Sequence[Patch]) -> ScriptCall:
        keys: list[bytes] = []
        args: list[Any] = [self._ttl_ms]
        for patch in patches:
            keys += self._keys.document(patch.session_id)
            if patch.turns:
                changes: tuple[Any, ...] = (2, patch.offset, patch.head, patch.end, patch.turns)
            else:
                changes = (1, patch.offset, patch.head)
            beside = meta_changes(patch)
            args += (
                4 + len(changes) + len(beside),
                patch.host, patch.result.facts.epoch, patch.version, patch.base.version, *changes, *beside,
            )  # fmt: skip
        return ScriptCall(PATCH, keys, args)


def replies_of(calls: Sequence[WriteCall], replies: Sequence[Any]) -> list[Any]:
    """For each session of the batch its reply, or the error that its call failed with.

    Args:
        calls: from `WriteCalls.of`.
        replies: to these calls; further ones are ignored.
    """
    by_session: list[Any] = [None] * sum(len(each.indexes) for each in calls)
    for (call, indexes), reply in zip(calls, replies, strict=False):
        each = reply if call.script is PATCH and isinstance(reply, list) else [reply] * len(indexes)
        for index, one in zip(indexes, each, strict=True):
            by_session[index] = one
    return by_session
