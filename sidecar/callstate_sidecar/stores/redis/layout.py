"""The Redis layout: keys, and the encoding of their values.

    <prefix><id>                      the document: JSON, a string with TTL      the Go package's
    <prefix>active                    set of the ids of active sessions          the Go package's
    {<prefix><id>}:meta               hash: version, epoch, owner, labels …      ours, as all that follow
    <prefix>@heartbeats               zset: id -> last beat, milliseconds
    <prefix>@host:<host>              the lease of the host's daemon: a counter
    {<prefix>@host:<host>}:instance   hash: which daemon raised it, and when
    <prefix>@host:<host>:sessions     set of the host's live ids; a hint, meta is decisive
    <prefix>@host:<host>:taken        set of ids that other hosts have taken from it, until it knows
    <prefix>@ring                     zset of the hosts, in the order of their ids: each watches the next ones
    <prefix>@dead                     zset: host -> when it was found dead, milliseconds
    <prefix>@duty:<name>              which daemon does something that one does for all
    <prefix>@mark:<host>              changes with each batch of the host; shows data loss
    <prefix>@call:<call_id>           set of the ids with this call id; a hint, the document is decisive

The braces put meta into the hash slot of its document, which a cluster requires of keys used in one script.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import chain
from typing import Any, Final

import msgspec

from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.stored_meta import checked_meta
from callstate_client.engine.sessions.writes import Patch, meta_of
from callstate_client.engine.user import MAX_ID, UNKNOWN
from callstate_sidecar.stores.encoding import parse_labels, parse_ops, plain_beat

DEFAULT_PREFIX: Final = "voicesession:"

STAMP_BYTES: Final = 512
"""A document's stamp is its length and its first bytes, so many, as a daemon wrote them."""


def id_bytes(session_id: str) -> bytes:
    """Encode an id for Redis. Ids written by Go need not be UTF-8; those that `id_text` decoded come out
    unchanged."""
    return session_id.encode("utf-8", "surrogateescape")


def id_text(raw: bytes | str) -> str:
    """Decode an id from Redis; it is text already if the caller's client decodes replies."""
    return raw if isinstance(raw, str) else raw.decode("utf-8", "surrogateescape")


class Layout:
    """The keys under one prefix.

    Args:
        prefix: before every key; without braces, which would move keys between the slots of a cluster.

    Raises:
        ValueError: the prefix has braces.
    """

    __slots__ = ("active", "beats", "prefix")

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"a Redis key prefix can't have braces: {prefix!r}")
        self.prefix = prefix.encode()
        self.active = self.prefix + b"active"
        self.beats = self.prefix + b"@heartbeats"

    def document(self, session_id: str) -> list[bytes]:
        """The keys of one session alone, which are in one slot: document and meta."""
        document = self.prefix + id_bytes(session_id)
        return [document, b"{%b}:meta" % document]

    def session(self, session_id: str) -> list[bytes]:
        """The first keys of every script on a session: document, meta, active set, heartbeats."""
        return [*self.document(session_id), self.active, self.beats]

    def foreign(self, session_id: str) -> bytes:
        """The key of what other software had written, and was set aside."""
        return b"{%b%b}:foreign" % (self.prefix, id_bytes(session_id))

    @property
    def documents(self) -> bytes:
        """A pattern that all documents' keys match, and the layout's other keys too."""
        return self._escaped_prefix + b"*"

    @property
    def calls(self) -> bytes:
        """A pattern that the keys of all calls' sets match."""
        return self._escaped_prefix + b"@call:*"

    @property
    def _escaped_prefix(self) -> bytes:
        return re.sub(rb"([*?\[\]\\])", rb"\\\1", self.prefix)

    def call(self, call_id: str) -> bytes:
        """The key of the set of sessions with this call id."""
        return b"%b@call:%b" % (self.prefix, call_id.encode("utf-8", "replace"))

    def shared(self, host: str) -> dict[bytes, str]:
        """The keys that the writes of all of a host's sessions share, and the type of each, as TYPE gives it."""
        return {self.active: "set", self.beats: "zset", self.host_sessions(host): "set"}

    def lease(self, host: str) -> list[bytes]:
        """The keys of a host's lease: its counter, and who raises it."""
        counter = b"%b@host:%b" % (self.prefix, host.encode())
        return [counter, b"{%b}:instance" % counter]

    @property
    def ring(self) -> bytes:
        """The key of the hosts to be watched, ordered by id."""
        return self.prefix + b"@ring"

    @property
    def dead(self) -> bytes:
        """The key of the hosts that were found dead."""
        return self.prefix + b"@dead"

    def taken_away(self, host: str) -> bytes:
        """The key of the set of sessions that other hosts have taken from this one."""
        return b"%b@host:%b:taken" % (self.prefix, host.encode())

    def duty(self, name: str) -> bytes:
        """The key of what one host does for all."""
        return b"%b@duty:%b" % (self.prefix, name.encode())

    def mark(self, host: str, tag: bytes = b"") -> bytes:
        """The key of a host's mark (mark.py), on a cluster with a tag that puts it on one of the primaries."""
        key = b"%b@mark:%b" % (self.prefix, host.encode())
        return b"%b:{%b}" % (key, tag) if tag else key

    def host_sessions(self, host: str) -> bytes:
        """The key of the set of a host's live sessions."""
        return b"%b@host:%b:sessions" % (self.prefix, host.encode())


_OP: Final = b"op:"
_IDS: Final = (b"uid", b"gid")
"""Absent where nobody is known."""


def meta_fields(meta: StoredMeta, *, deleted: bool) -> list[str | bytes]:
    """The fields of meta as alternating names and values, without those that the script adds: host, epoch, version
    and stamp."""
    facts = _facts(meta)
    for name in _IDS:
        if not facts[name]:
            del facts[name]
    words = [*chain.from_iterable(facts.items()), b"deleted", "1" if deleted else "0"]
    for number, (op, result) in enumerate(meta.ops.items()):
        words += (_OP + op.encode(), b"%d %b" % (number, result))
    return words


def meta_changes(patch: Patch) -> list[Any]:
    """What a patch changes of meta: the number of fields to remove, these, then those to set, as alternating names
    and values."""
    base, result = patch.base, patch.result
    was, ops = base.ops, result.ops
    changed: list[Any] = [0]
    # results are kept oldest first, so the new ones are the last; a version is above any number given before
    left = len(ops)
    for op in reversed(ops):
        done = ops[op]
        if was.get(op) is done:
            break
        left -= 1
        changed += (_OP + op.encode(), b"%d %b" % (result.version + left, done))
    if left != len(was):
        removed = [_OP + op.encode() for op in was.keys() - ops.keys()]
        changed[:1] = (len(removed), *removed)
    if base.facts is not result.facts or base.state != result.state:  # not so after a turn, as usual
        before = _facts(meta_of(base, patch.host))
        for name, value in _facts(patch.meta).items():
            if before[name] != value:
                changed += (name, value)
    return changed


def _facts(meta: StoredMeta) -> dict[bytes, str | bytes]:
    """What rarely changes."""
    return {
        b"owner": meta.owner,
        b"ended_reason": meta.ended_reason,
        b"ended_detail": meta.ended_detail,
        b"ended_at": meta.ended_at,
        b"labels": msgspec.json.encode(meta.labels) if meta.labels else "",
        b"heartbeat_timeout_s": _seconds_text(meta.heartbeat_timeout_s),
        b"max_duration_s": _seconds_text(meta.max_duration_s),
        b"reaped": "1" if meta.reaped else "0",
        b"status_before": meta.status_before,
        b"state": meta.state,
        b"orphan": meta.orphan,
        b"uid": _id_text(meta.uid),
        b"gid": _id_text(meta.gid),
    }


def parse_meta(fields: Mapping[bytes, bytes]) -> StoredMeta | None:
    """Parse a meta hash; None if no daemon wrote it. An unreadable field counts as absent.

    Raises:
        UnreadableMetaError: host, epoch or version can't be read.
    """
    if b"version" not in fields:
        return None
    meta = StoredMeta(
        host=_text(fields, b"host"),
        epoch=_number(fields.get(b"epoch") or b"0"),
        version=_number(fields[b"version"]),
        owner=_text(fields, b"owner"),
        ended_reason=_text(fields, b"ended_reason"),
        ended_detail=_text(fields, b"ended_detail"),
        ended_at=_text(fields, b"ended_at"),
        labels=parse_labels(fields.get(b"labels")),
        heartbeat_timeout_s=_seconds(fields.get(b"heartbeat_timeout_s", b"")),
        max_duration_s=_seconds(fields.get(b"max_duration_s", b"")),
        reaped=fields.get(b"reaped") == b"1",
        status_before=_text(fields, b"status_before"),
        state=_text(fields, b"state"),
        orphan=_text(fields, b"orphan"),
        uid=_id(fields.get(b"uid", b"")),
        gid=_id(fields.get(b"gid", b"")),
        deleted=fields.get(b"deleted") == b"1",
        ops=_ops(fields),
    )
    return checked_meta(meta)


def _ops(fields: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """The results of repeatable mutations, oldest first. Earlier daemons wrote all of them as one field."""
    found: list[tuple[int, str, bytes]] = []
    for name, value in fields.items():
        number, _, result = value.partition(b" ")
        if name.startswith(_OP) and (at := _integer(number)) is not None:
            found.append((at, name.removeprefix(_OP).decode("utf-8", "replace"), result))
    return parse_ops(fields.get(b"ops", b"")) | {op: result for _, op, result in sorted(found)}


def beat_ms(score: Any) -> int:
    """A zset score as milliseconds; 0 if there is none or it is not a plausible time."""
    try:
        return plain_beat(float(score) if score else 0)
    except ValueError:
        return 0


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")


def _integer(raw: bytes) -> int | None:
    return int(raw) if raw.isdigit() and len(raw) <= 20 else None


def _number(raw: bytes) -> int:
    """An epoch or version; -1 if it can't be read."""
    found = _integer(raw)
    return -1 if found is None else found


def _id(raw: bytes) -> int:
    """A uid or gid."""
    found = _integer(raw)
    return UNKNOWN if found is None or found > MAX_ID else found


def _id_text(value: int) -> str:
    return "" if value == UNKNOWN else str(value)


def _seconds(raw: bytes) -> float | None:
    try:
        value = float(raw)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _seconds_text(value: float | None) -> str:
    return "" if value is None else repr(value)
