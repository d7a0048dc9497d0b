"""One session as bytes: a head that rarely changes, counters that do, and the history as chunks.

Nothing is kept as a tree of dicts: 20 turns of JSON would take ten times their size that way. A load joins
the parts; a turn is appended without looking at the turns before it. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct

from callstate_client.errors import ConflictError, InvalidParamsError
from callstate_client.merge import merge_patch
from callstate_client.protocol import INT64_MAX, INT64_MIN
from callstate_sidecar.door import (
    HeadFields,
    MetricsDoor,
    PlainHead,
    TurnDoor,
    check_fields,
    check_head,
    check_json,
    check_metrics,
    check_turn,
)

FOLD_CHUNKS: Final = 32
"""So many small chunks are folded: a chunk a turn costs 41 bytes each, and a join walks them all."""

HEAD_REST_BYTES: Final = 320
"""About what a document has beside `fields` and turns: status, `updated_at`, metrics, names, brackets."""

FOLD_BYTES: Final = 64 * 1024
"""Chunks are folded up to this size: folding copies them, and a big copy would be felt in the loop."""


_NO_METRICS: Final = MetricsDoor()


class _Created(Struct):
    created_at: str


_encode = msgspec.json.encode
_decode = msgspec.json.decode
_created = msgspec.json.Decoder(_Created).decode
_parts = msgspec.json.Decoder(list[Raw]).decode


MIN_US: Final = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z in microseconds since 1970, the first moment a datetime can say."""

MAX_US: Final = 253_402_300_799_999_999
"""The last one."""


@lru_cache(maxsize=64)
def _second(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()[:19]


def format_us(at_us: int) -> str:
    """RFC 3339 text of microseconds since 1970. Times of one second share most of their text."""
    seconds, fraction = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}.{fraction:06d}Z" if fraction else f"{_second(seconds)}Z"


def parse_us(text: str) -> int:
    """Microseconds since 1970 of RFC 3339 text; negative before. An offset may not lead out of years 1 to 9999."""
    delta = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    at_us = (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds
    return max(MIN_US, min(at_us, MAX_US))


_METRICS_JSON: Final = (
    b'{"turn_count":%d,"interruption_count":%d,"user_speech_duration_ms":%d,"agent_speech_duration_ms":%d%b%b%b}'
)


def _int64(count: int) -> int:
    """A counter that stays at its bound: one beyond it could be written neither to the journal nor for Go."""
    return max(INT64_MIN, min(count, INT64_MAX))


class Metrics(Struct, frozen=True, array_like=True):
    """A session's counters. Replaced, never changed, so that an undo only has to put the old ones back."""

    turn_count: int = 0
    interruption_count: int = 0
    user_speech_duration_ms: int = 0
    agent_speech_duration_ms: int = 0
    first_response_ms: int = 0
    average_response_ms: int = 0
    extra: bytes = b""
    """Members we don't know, as `,"name":value …`."""

    def to_json(self) -> bytes:
        """As Go writes it: the two response times are left out when zero."""
        return _METRICS_JSON % (
            self.turn_count,
            self.interruption_count,
            self.user_speech_duration_ms,
            self.agent_speech_duration_ms,
            b',"first_response_ms":%d' % self.first_response_ms if self.first_response_ms else b"",
            b',"average_response_ms":%d' % self.average_response_ms if self.average_response_ms else b"",
            self.extra,
        )  # fmt: skip

    def with_turns(self, turns: list[TurnDoor]) -> Metrics:
        """After these turns: counted, speech time added for `user` and `agent`."""
        user, agent = self.user_speech_duration_ms, self.agent_speech_duration_ms
        for turn in turns:
            if turn.role == "user":
                user += turn.duration_ms
            elif turn.role == "agent":
                agent += turn.duration_ms
        count = self.turn_count + len(turns)
        if not (count <= INT64_MAX and INT64_MIN <= user <= INT64_MAX and INT64_MIN <= agent <= INT64_MAX):
            count, user, agent = _int64(count), _int64(user), _int64(agent)
        return Metrics(
            count, self.interruption_count, user, agent,
            self.first_response_ms, self.average_response_ms, self.extra,
        )  # fmt: skip

    def with_interruption(self) -> Metrics:
        """After one interruption."""
        return Metrics(
            self.turn_count, _int64(self.interruption_count + 1),
            self.user_speech_duration_ms, self.agent_speech_duration_ms,
            self.first_response_ms, self.average_response_ms, self.extra,
        )  # fmt: skip


class Head(Struct):
    """A checked head, ready to be taken over by a document.

    `fields` are the members that only a save or an update changes, as JSON without the braces: id, created_at,
    call_id, provider, direction, from, to, recovery_data, and the ones we don't know.
    """

    session_id: str
    fields: bytes
    provider: str
    call_id: str
    status: str
    metrics: Metrics
    history: bytes | None
    """The inside of the history's brackets; empty for null and `[]`; None where it was left out."""
    updated_us: int = 0
    """What the document itself says."""


def _members(extra: dict[str, Raw]) -> bytes:
    return b"".join(b",%b:%b" % (_encode(name), bytes(value)) for name, value in extra.items())


def _fields(door: HeadFields, extra: dict[str, Raw], created_at: str) -> bytes:
    known: dict[str, Any] = {"id": door.id, "created_at": created_at}
    if door.call_id:
        known["call_id"] = door.call_id
    known["provider"] = door.provider
    known["direction"] = door.direction
    known["from"] = door.from_
    known["to"] = door.to
    if door.recovery_data is not UNSET and bytes(door.recovery_data) not in (b"null", b'""', b"{}", b"[]"):
        known["recovery_data"] = door.recovery_data
    return _encode(known)[1:-1] + _members(extra)


def read_head(data: bytes | Raw | PlainHead, path: str, created_at: Callable[[str], str]) -> Head:
    """A document's head, checked; its turns are not, see `check_turns`.

    Args:
        data: the document.
        path: its place in the message, for errors.
        created_at: asked, with the session's id, where the document does not say.

    Raises:
        InvalidParamsError, ParseError: something in it can't be kept.
    """
    door: HeadFields
    extra: dict[str, Raw] = {}
    metrics_extra: dict[str, Raw] = {}
    if isinstance(data, PlainHead):
        check_fields(data, path)
        door = data
        metrics: MetricsDoor = data.metrics or _NO_METRICS
    else:
        door, extra = check_head(data, path)
        metrics, metrics_extra = check_metrics(door.metrics, f"{path}.metrics")
    history = None if door.history is UNSET else bytes(door.history)
    if history is not None:
        if history == b"null":
            history = b""
        elif history[:1] != b"[":
            raise InvalidParamsError(
                f"Expected array or null at {path}.history", path=f"{path}.history", expected="array or null"
            )
        else:
            history = history[1:-1].strip()
    return Head(
        session_id=door.id,
        fields=_fields(door, extra, door.created_at or created_at(door.id)),
        provider=door.provider,
        call_id=door.call_id,
        status=door.status,
        metrics=Metrics(
            metrics.turn_count,
            metrics.interruption_count,
            metrics.user_speech_duration_ms,
            metrics.agent_speech_duration_ms,
            metrics.first_response_ms,
            metrics.average_response_ms,
            _members(metrics_extra),
        ),
        history=history,
        updated_us=parse_us(door.updated_at) if door.updated_at else 0,
    )


class Document:
    """One session's document, in parts.

    Everything a mutation replaces is an object of its own, so `mark` and `restore` undo it in constant time.
    """

    __slots__ = (
        "call_id",
        "chunks",
        "fields",
        "history_bytes",
        "metrics",
        "provider",
        "status",
        "turn_count",
        "updated_us",
    )

    def __init__(self, head: Head, updated_us: int) -> None:
        self.chunks: list[bytes] = []
        self.turn_count = 0
        self.history_bytes = 0
        self.take_head(head, updated_us)

    def take_head(self, head: Head, updated_us: int) -> None:
        """Replace all but the history."""
        self.fields = head.fields
        self.provider = head.provider
        self.call_id = head.call_id
        self.status = head.status
        self.metrics = head.metrics
        self.updated_us = updated_us

    # -- history ------------------------------------------------------------------------------------------

    def append(self, turns: bytes, count: int) -> None:
        """Put turns (comma-joined, no brackets) behind the history."""
        if not count:
            return
        if len(self.chunks) >= FOLD_CHUNKS and len(self.chunks[-FOLD_CHUNKS]) < FOLD_BYTES // 2:
            self.chunks = _fold(self.chunks)  # a new list: a mark of the old one stays good
        self.history_bytes += len(turns) + (1 if self.chunks else 0)
        self.chunks.append(turns)
        self.turn_count += count

    def replace_history(self, turns: bytes, count: int) -> None:
        """Put turns in place of the history."""
        self.chunks = [turns] if count else []
        self.turn_count = count
        self.history_bytes = len(turns)

    def extension(self, history: bytes) -> bytes | None:
        """What a history has behind the kept one, or None where it does not begin with it."""
        at = 0
        for chunk in self.chunks:
            if at:
                if not history.startswith(b",", at):
                    return None
                at += 1
            if not history.startswith(chunk, at):
                return None
            at += len(chunk)
        rest = history[at:].lstrip() if at else history
        if not at or not rest:
            return rest
        # `{"a":1}` is also how `{"a":1}2` begins: what follows a whole turn is a comma
        return rest[1:].lstrip() if rest[:1] == b"," else None

    def last_turns(self, count: int) -> bytes:
        """The last turns, comma-joined; only the chunks that hold them are looked at."""
        if count >= self.turn_count:
            return b",".join(self.chunks)
        found: list[Raw] = []
        index = len(self.chunks)
        while len(found) < count:
            index -= 1
            found = _parts(b"[%b]" % self.chunks[index]) + found
        return b",".join(bytes(part) for part in found[len(found) - count :])

    def amended(self, patch: Raw, path: str) -> bytes:
        """The last turn with a merge patch on it, checked.

        Raises:
            ConflictError: there is no turn.
        """
        if not self.turn_count:
            raise ConflictError("the session has no turn to amend")
        turn = merge_patch(_decode(self.last_turns(1)), check_json(patch, path, 3))
        encoded = _encode(turn)
        check_turn(encoded, path)
        return encoded

    def replace_last(self, turn: bytes) -> None:
        """Put a turn in place of the last one; in a chunk of its own, for it may be amended again."""
        *others, last = self.chunks
        before = b",".join(bytes(part) for part in _parts(b"[%b]" % last)[:-1])
        self.chunks = [*others, before, turn] if before else [*others, turn]
        self.history_bytes += len(turn) - len(last) + (len(before) + 1 if before else 0)

    # -- whole --------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """About how many bytes the document has as JSON."""
        return len(self.fields) + self.history_bytes + HEAD_REST_BYTES

    def head_json(self, updated_us: int) -> bytes:
        """The document without `history`."""
        return b"{%b}" % self._head(updated_us)

    def to_json(self, updated_us: int, history: bytes | None = None) -> bytes:
        """The document, with all of the history or with what is given in its place."""
        turns = b",".join(self.chunks) if history is None else history
        return b'{%b,"history":[%b]}' % (self._head(updated_us), turns)

    def _head(self, updated_us: int) -> bytes:
        return b'%b,"updated_at":"%b","status":%b,"metrics":%b' % (
            self.fields,
            format_us(updated_us).encode(),
            _encode(self.status),
            self.metrics.to_json(),
        )

    @property
    def created_at(self) -> str:
        """When the session was created, as its document says it."""
        return _created(b"{%b}" % self.fields).created_at

    def patched(self, patch: Raw, path: str) -> Head:
        """The head with a merge patch (RFC 7396) on it, checked; history is not the head's.

        Raises:
            InvalidParamsError: it touches what no patch may, or the outcome is no session.
        """
        changes = check_json(patch, path, 2)
        if not isinstance(changes, dict):
            raise InvalidParamsError(f"Expected object at {path}", path=path, expected="object")
        for name in ("id", "history", "updated_at"):
            if name in changes:
                raise InvalidParamsError(
                    f"`{name}` can't be patched at {path}.{name}", path=f"{path}.{name}", expected="nothing"
                )
        patched = _encode(merge_patch(_decode(self.head_json(self.updated_us)), changes))
        return read_head(patched, path, lambda _: self.created_at)

    def mark(self) -> tuple[Any, ...]:
        """What `restore` needs to come back to now."""
        return (
            self.fields, self.provider, self.call_id, self.status, self.metrics, self.updated_us,
            self.chunks, len(self.chunks), self.turn_count, self.history_bytes,
        )  # fmt: skip

    def restore(self, mark: tuple[Any, ...]) -> None:
        """Undo everything since the mark."""
        (
            self.fields, self.provider, self.call_id, self.status, self.metrics, self.updated_us,
            self.chunks, length, self.turn_count, self.history_bytes,
        ) = mark  # fmt: skip
        del self.chunks[length:]


_decode = msgspec.json.decode


def count_turns(turns: bytes) -> int:
    """How many turns (comma-joined, no brackets) these are."""
    return len(_parts(b"[%b]" % turns))


def _fold(chunks: list[bytes]) -> list[bytes]:
    """The same history in fewer chunks: the last ones joined, as many as stay small. A big one is left as it is:
    copied again and again, a long history would cost its length a turn."""
    start, size = len(chunks), 0
    while start and size + len(chunks[start - 1]) <= FOLD_BYTES:
        start -= 1
        size += len(chunks[start])
    return chunks if start >= len(chunks) - 1 else [*chunks[:start], b",".join(chunks[start:])]
