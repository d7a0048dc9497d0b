"""The params of each verb, one class per verb.

Unknown members are refused, so that a mistyped `if_version` is an error and not ignored.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import UNSET, Raw, Struct, UnsetType

from callstate_client.model.go_json import Int64
from callstate_client.protocol.bounds import (
    UNKNOWN,
    EventTypes,
    FlushIds,
    HeartbeatIds,
    HeartbeatTimeout,
    History,
    Labels,
    Limit,
    MaxDuration,
    PositiveSeconds,
    RetryIds,
    SessionId,
    Text,
    UserId,
    Version,
    Word,
    WorkerId,
)

MAX_DEPTH: Final = 64
"""Deepest nesting of a message. Parsers of other languages begin to fail around 128; orjson writes up to 254."""


SESSION_STATES: Final = ("live", "suspect", "orphan", "restored")
"""The states by which sessions that have not ended can be listed; a restored one is in one of the others as
well."""


class Params(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Base of all params."""


class Written(Params):
    """Params of any verb, already encoded: the pieces of their JSON, to be joined."""

    pieces: tuple[Any, ...]


class NoParams(Params):
    """Of `server.ping`, `server.info` and `server.stats`."""


class Creator(Params):
    """A user that created a session; UNKNOWN (-1) where it is not known."""

    uid: UserId = UNKNOWN
    gid: UserId = UNKNOWN


class SaveParams(Params):
    """`session.save`. `labels`, `heartbeat_timeout_s` and `max_duration_s` are kept where left out.

    `user`: for whom an operator creates it."""

    session: Raw
    if_version: Version | None = None
    labels: Labels | None = None
    heartbeat_timeout_s: HeartbeatTimeout | None = None
    max_duration_s: MaxDuration | None = None
    epoch: Int64 | None = None
    op: Word | None = None
    user: Creator | None = None


class LoadParams(Params):
    """`session.load`. `history`: `"all"`, `"none"`, or how many of the last turns."""

    session_id: SessionId
    history: History = "all"


class DeleteParams(Params):
    """`session.delete`."""

    session_id: SessionId
    epoch: Int64 | None = None
    op: Word | None = None


class ListActiveParams(Params):
    """`session.list_active`. `scope`: `"host"` or `"all"`."""

    limit: Limit | None = None
    cursor: Text | None = None
    scope: Word = "host"


class ListParams(Params):
    """`session.list`. `ended_since` is RFC 3339 text; `labels` must all match; `state`: one of SESSION_STATES;
    `scope`: `"host"` or `"all"`; `users`: say who created each."""

    status: Text | None = None
    state: Word | None = None
    provider: Text | None = None
    owner: Word | None = None
    call_id: Text | None = None
    labels: Labels | None = None
    ended_since: Word | None = None
    limit: Limit | None = None
    cursor: Text | None = None
    scope: Word = "host"
    users: bool = False


class HeartbeatParams(Params):
    """`session.heartbeat`: either one id or several."""

    session_id: SessionId | None = None
    session_ids: HeartbeatIds | None = None


class AddTurnParams(Params):
    """`session.add_turn`: one of `turn` and `turns`."""

    session_id: SessionId
    turn: Raw | UnsetType = UNSET
    turns: Raw | UnsetType = UNSET
    epoch: Int64 | None = None
    op: Word | None = None


class AmendTurnParams(Params):
    """`session.amend_turn`: `set` is a merge patch (RFC 7396) of a turn, the last one where nothing says which.

    `index`: from 0, or negative from the end. `role`: the last turn of that role; with `index` a check.
    """

    session_id: SessionId
    set: Raw
    index: Int64 | None = None
    role: Word | None = None
    epoch: Int64 | None = None
    op: Word | None = None


class RecordInterruptionParams(Params):
    """`session.record_interruption`."""

    session_id: SessionId
    epoch: Int64 | None = None
    op: Word | None = None


class UpdateParams(Params):
    """`session.update`: `set` is a merge patch (RFC 7396) of the head."""

    session_id: SessionId
    set: Raw
    if_version: Version | None = None
    epoch: Int64 | None = None
    op: Word | None = None


class EndParams(Params):
    """`session.end`. `reason` is a word of the worker's own, `detail` any JSON beside it."""

    session_id: SessionId
    reason: Word | None = None
    detail: Raw | UnsetType = UNSET
    epoch: Int64 | None = None
    op: Word | None = None


Mutation = AddTurnParams | AmendTurnParams | RecordInterruptionParams | UpdateParams | EndParams
"""Params of the mutations of one session, each with an `op`."""


class ClaimParams(Params):
    """`session.claim`. `steal`: also from an owner that is alive. `history` as for a load.

    `heartbeat_timeout_s` and `max_duration_s` are kept where left out.
    """

    session_id: SessionId
    worker_id: WorkerId
    steal: bool = False
    history: History = "all"
    heartbeat_timeout_s: HeartbeatTimeout | None = None
    max_duration_s: MaxDuration | None = None


class ClaimNextParams(Params):
    """`session.claim_next`: an orphan that has all of these labels."""

    worker_id: WorkerId
    labels: Labels | None = None
    history: History = "all"


class ReleaseParams(Params):
    """`session.release`: give it up; `epoch` is the claim's."""

    session_id: SessionId
    epoch: Int64


class RegisterParams(Params):
    """`worker.register`: this connection is one of this worker's from now on.

    `instance` identifies the store, on all of its connections; `process` likewise the process it is in. Both are
    random.
    """

    worker_id: WorkerId
    instance: Word | None = None
    process: Word | None = None


class WorkerListParams(Params):
    """`worker.list`."""

    limit: Limit | None = None
    cursor: Text | None = None


class Since(Params):
    """A place in the stream of events, after which events are wanted."""

    stream: Word
    seq: Version


class SubscribeParams(Params):
    """`events.subscribe`: events of these types, all but `turn` where left out, from now or from a place on.

    `worker_id`: without what workers other than this one do with their own sessions.
    """

    types: EventTypes | None = None
    since: Since | None = None
    worker_id: WorkerId | None = None


class QuarantineListParams(Params):
    """`quarantine.list`."""

    limit: Limit | None = None
    cursor: Text | None = None


class QuarantineShowParams(Params):
    """`quarantine.show`."""

    session_id: SessionId


class QuarantineRetryParams(Params):
    """`quarantine.retry`: these sessions, or all."""

    session_ids: RetryIds | None = None


class QuarantineDropParams(Params):
    """`quarantine.drop`."""

    session_id: SessionId


class DrainParams(Params):
    """`server.drain`: take no new sessions, or take them again."""

    on: bool


class CheckParams(Params):
    """`server.check`: compare memory with the store, and `repair` what can be repaired safely."""

    repair: bool = False


class EraseParams(Params):
    """`server.erase`: delete a session, and the bytes of it that are left in files. `end`: a live one as well."""

    session_id: SessionId
    end: bool = False
    timeout_s: PositiveSeconds | None = None


class FlushParams(Params):
    """`server.flush`: these sessions, or all."""

    session_ids: FlushIds | None = None
    timeout_s: PositiveSeconds | None = None
