"""A session without its history: its counters, and the members that only a save or an update changes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from callstate_client.engine.sessions.validation.heads import (
    HeadFields,
    IncomingHead,
    PlainHead,
    check_fields,
    check_head,
    check_metrics,
    fields_in_steps,
    head_in_steps,
)
from callstate_client.engine.sessions.validation.turns import IncomingTurn
from callstate_client.errors import InvalidParamsError
from callstate_client.model import documents, go_json
from callstate_client.model.go_json import INT64_MAX, INT64_MIN
from callstate_client.model.metrics import RESPONSE_COUNT, RESPONSE_TOTAL_MS, Counters, Responses
from callstate_client.model.times import parse_us

_encode = msgspec.json.encode
_NO_METRICS: Final = Counters()
_NOTHING: Final = (b"null", b'""', b"{}", b"[]")
"""Empty values that Go omits."""

_METRICS_JSON: Final = (
    b'{"turn_count":%d,"interruption_count":%d,"user_speech_duration_ms":%d,"agent_speech_duration_ms":%d%b%b%b}'
)


def _int64(count: int) -> int:
    """Clamp a counter: neither the journal nor Go can hold one out of range."""
    return max(INT64_MIN, min(count, INT64_MAX))


class CallMetrics(Struct, frozen=True, array_like=True):
    """A session's counters. Replaced, never changed in place, so that a rollback only puts the old ones back."""

    turn_count: int = 0
    interruption_count: int = 0
    user_speech_duration_ms: int = 0
    agent_speech_duration_ms: int = 0
    first_response_ms: int = 0
    average_response_ms: int = 0
    extra: bytes = b""
    """Unknown members, as `,"name":value …`."""

    def to_json(self) -> bytes:
        """In the form that Go writes: zero response times are omitted."""
        return _METRICS_JSON % (
            self.turn_count,
            self.interruption_count,
            self.user_speech_duration_ms,
            self.agent_speech_duration_ms,
            b',"first_response_ms":%d' % self.first_response_ms if self.first_response_ms else b"",
            b',"average_response_ms":%d' % self.average_response_ms if self.average_response_ms else b"",
            self.extra,
        )  # fmt: skip

    def with_turns(self, turns: Sequence[IncomingTurn]) -> CallMetrics:
        """With these turns and their response times counted, and the speech time of `user` and `agent` added."""
        user, agent = self.user_speech_duration_ms, self.agent_speech_duration_ms
        responses_ms: list[int] = []
        for turn in turns:
            duration_ms = turn.duration_ms
            if duration_ms > 0:  # negative if a clock was set back during the turn
                if turn.role == "user":
                    user += duration_ms
                elif turn.role == "agent":
                    agent += duration_ms
            response_ms = turn.response_ms
            if type(response_ms) is int and 0 <= response_ms <= INT64_MAX:
                responses_ms.append(response_ms)
        count = self.turn_count + len(turns)
        if max(count, user, agent) > INT64_MAX:
            count, user, agent = _int64(count), _int64(user), _int64(agent)
        metrics = CallMetrics(
            count, self.interruption_count, user, agent,
            self.first_response_ms, self.average_response_ms, self.extra,
        )  # fmt: skip
        return metrics.with_responses(self.responses().plus(responses_ms)) if responses_ms else metrics

    def responses(self) -> Responses:
        """The response times, summed up."""
        members = self.unknown_members()
        count, total_ms = members.get(RESPONSE_COUNT), members.get(RESPONSE_TOTAL_MS)
        return Responses(
            self.first_response_ms,
            self.average_response_ms,
            None if count is None else go_json.decode_any(count),
            None if total_ms is None else go_json.decode_any(total_ms),
        )

    def with_responses(self, responses: Responses) -> CallMetrics:
        """With these response times in place of the present ones."""
        totals = {RESPONSE_COUNT: b"%d" % responses.count, RESPONSE_TOTAL_MS: b"%d" % responses.total_ms}
        return structs.replace(
            self,
            first_response_ms=responses.first_ms,
            average_response_ms=responses.average_ms,
            extra=joined_members(self.unknown_members() | totals),
        )

    @property
    def has_responses(self) -> bool:
        """Whether response times were counted, and not only set."""
        return RESPONSE_COUNT in self.unknown_members()

    def unknown_members(self) -> dict[str, bytes]:
        """The members that callstate does not define, as JSON; but for those of `responses`."""
        return go_json.raw_members(b"{%b}" % self.extra[1:]) if self.extra else {}

    def with_interruption(self) -> CallMetrics:
        """With one more interruption."""
        return CallMetrics(
            self.turn_count, _int64(self.interruption_count + 1),
            self.user_speech_duration_ms, self.agent_speech_duration_ms,
            self.first_response_ms, self.average_response_ms, self.extra,
        )  # fmt: skip


class Head(Struct):
    """A validated head, ready for a document.

    `fields` are the members that only a save or an update changes, as JSON without the braces: id, created_at,
    call_id, provider, direction, from, to, recovery_data, and unknown ones.
    """

    session_id: str
    fields: bytes
    provider: str
    call_id: str
    status: str
    metrics: CallMetrics
    history: bytes | None
    """The history without its brackets; empty for null and `[]`; None if it was left out."""
    updated_at: str | None = None
    """The document's own `updated_at`."""

    @property
    def size(self) -> int:
        """Bytes by which the session may be as long as `limits.head_bytes` allows."""
        return len(self.fields) + len(self.metrics.extra)

    @property
    def updated_us(self) -> int:
        """`updated_at` in microseconds since 1970; 0 if missing."""
        return parse_us(self.updated_at) if self.updated_at else 0


def joined_members(extra: Mapping[str, Raw | bytes]) -> bytes:
    """Members as JSON that follows others: `,"name":value …`."""
    return b"".join(b",%b:%b" % (_encode(name), bytes(value)) for name, value in extra.items())


class _Fields(Struct, omit_defaults=True):
    """The known members of `Head.fields`, in Go's order."""

    id: str
    created_at: str
    provider: str
    direction: str
    from_: str = msgspec.field(name="from")
    to: str
    call_id: str = ""
    recovery_data: Raw | UnsetType = UNSET


def _fields(decoded: HeadFields, extra: Mapping[str, Raw | bytes], created_at: str) -> bytes:
    recovery = decoded.recovery_data
    if recovery is not UNSET and _is_nothing(bytes(recovery)):
        recovery = UNSET
    known = _Fields(
        decoded.id,
        created_at,
        decoded.provider,
        decoded.direction,
        decoded.from_,
        decoded.to,
        decoded.call_id,
        recovery,
    )
    return _encode(known)[1:-1] + joined_members(extra) if extra else _encode(known)[1:-1]


def _is_nothing(value: bytes) -> bool:
    return value in _NOTHING or (value[:1] == b"{" and not value[1:-1].strip())


def metrics_of(counters: Counters, extra: bytes) -> CallMetrics:
    """Metrics of these counters and unknown members."""
    return CallMetrics(
        counters.turn_count, counters.interruption_count,
        counters.user_speech_duration_ms, counters.agent_speech_duration_ms,
        counters.first_response_ms, counters.average_response_ms, extra,
    )  # fmt: skip


def head_of(parts: documents.Parts, extra: bytes = b"", metrics_extra: bytes = b"") -> Head:
    """The head of a document read from a store; with more members of it and of its metrics, joined."""
    known = parts.head
    fields = _Fields(
        known.id, known.created_at, known.provider, known.direction, known.from_, known.to, known.call_id
    )
    recovery = () if parts.recovery_data is None else (b',"recovery_data":', parts.recovery_data)
    return Head(
        session_id=known.id,
        fields=b"".join((_encode(fields)[1:-1], *recovery, joined_members(parts.extra), extra)),
        provider=known.provider,
        call_id=known.call_id,
        status=known.status,
        metrics=metrics_of(parts.metrics, joined_members(parts.metrics_extra) + metrics_extra),
        history=parts.history,
        updated_at=known.updated_at,
    )


class ReadHead(NamedTuple):
    """A head that was read and validated, but for what it takes from the session that it replaces."""

    decoded: HeadFields
    extra: dict[str, Raw]
    metrics: CallMetrics
    history: bytes | None

    def head(self, created_at: Callable[[str], str]) -> Head:
        """The head. `created_at`: called with the session's id if the document has none."""
        decoded = self.decoded
        return Head(
            session_id=decoded.id,
            fields=_fields(decoded, self.extra, decoded.created_at or created_at(decoded.id)),
            provider=decoded.provider,
            call_id=decoded.call_id,
            status=decoded.status,
            metrics=self.metrics,
            history=self.history,
            updated_at=decoded.updated_at,
        )


def read_head(data: bytes | Raw | PlainHead, path: str, created_at: Callable[[str], str]) -> Head:
    """Like `read_now`, and complete it with `created_at`; see `ReadHead.head`."""
    return read_now(data, path).head(created_at)


def read_now(data: bytes | Raw | PlainHead, path: str) -> ReadHead:
    """Like `read_in_steps`, in one go."""
    if isinstance(data, PlainHead):
        check_fields(data, path)
        return _read_plain(data, path)
    return _read_any(*check_head(data, path), path)


def read_in_steps(data: bytes | Raw | PlainHead, path: str) -> Generator[None, None, ReadHead]:
    """Validate and read a document's head, in steps if it is long. Its turns are left to `check_turns`.

    Args:
        data: the document.
        path: its path in the message, for errors.

    Raises:
        InvalidParamsError, ParseError: something in it is invalid.
    """
    if isinstance(data, PlainHead):
        yield from fields_in_steps(data, path)
        return _read_plain(data, path)
    head, extra = yield from head_in_steps(data, path)
    return _read_any(head, extra, path)


def _read_any(head: IncomingHead, extra: dict[str, Raw], path: str) -> ReadHead:
    metrics, metrics_extra = check_metrics(head.metrics, f"{path}.metrics")
    return ReadHead(head, extra, metrics_of(metrics, joined_members(metrics_extra)), _turns(head, path))


def _read_plain(head: PlainHead, path: str) -> ReadHead:
    return ReadHead(head, {}, metrics_of(head.metrics or _NO_METRICS, b""), _turns(head, path))


def _turns(head: HeadFields, path: str) -> bytes | None:
    """The history without its brackets; None if it was left out."""
    if head.history is UNSET:
        return None
    history = bytes(head.history)
    if history == b"null":
        return b""
    if history[:1] != b"[":
        raise InvalidParamsError(
            f"Expected array or null at {path}.history", path=f"{path}.history", expected="array or null"
        )
    return history[1:-1].strip()
