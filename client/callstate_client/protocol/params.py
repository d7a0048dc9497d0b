"""The params of each verb, one class per verb.

Unknown members are refused, so that a mistyped `if_version` is an error and not ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from callstate_client.model.go_json import INT64_MAX, Int64
from callstate_client.protocol.ids import MAX_DURATION_S, MAX_HEARTBEAT_TIMEOUT_S, MAX_SECONDS

MAX_DEPTH: Final = 64
"""Deepest nesting of a message. Parsers of other languages begin to fail around 128; orjson writes up to 254."""

MAX_HISTORY_LIMIT: Final = 1_000_000_000

MAX_HEARTBEAT_IDS: Final = 10_000
"""Sessions that one heartbeat may name: the client sends 2,000 at most."""

Version = Annotated[int, Meta(ge=0, le=INT64_MAX)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=MAX_SECONDS)]
HeartbeatTimeout = Annotated[float, Meta(gt=0, le=MAX_HEARTBEAT_TIMEOUT_S)]
MaxDuration = Annotated[float, Meta(gt=0, le=MAX_DURATION_S)]
Limit = Annotated[int, Meta(ge=1, le=10_000)]
UNKNOWN: Final = -1
UserId = Annotated[int, Meta(ge=UNKNOWN, le=2**32 - 2)]
History = str | Annotated[int, Meta(ge=0, le=MAX_HISTORY_LIMIT)]


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
    labels: dict[str, str] | None = None
    heartbeat_timeout_s: HeartbeatTimeout | None = None
    max_duration_s: MaxDuration | None = None
    epoch: Int64 | None = None
    op: str | None = None
    user: Creator | None = None


class LoadParams(Params):
    """`session.load`. `history`: `"all"`, `"none"`, or how many of the last turns."""

    session_id: str
    history: History = "all"


class DeleteParams(Params):
    """`session.delete`."""

    session_id: str
    epoch: Int64 | None = None
    op: str | None = None


class ListActiveParams(Params):
    """`session.list_active`. `scope`: `"host"` or `"all"`."""

    limit: Limit | None = None
    cursor: str | None = None
    scope: str = "host"


class ListParams(Params):
    """`session.list`. `ended_since` is RFC 3339 text; `labels` must all match; `state`: one of SESSION_STATES;
    `scope`: `"host"` or `"all"`; `users`: say who created each."""

    status: str | None = None
    state: str | None = None
    provider: str | None = None
    owner: str | None = None
    call_id: str | None = None
    labels: dict[str, str] | None = None
    ended_since: str | None = None
    limit: Limit | None = None
    cursor: str | None = None
    scope: str = "host"
    users: bool = False


class HeartbeatParams(Params):
    """`session.heartbeat`: either one id or several."""

    session_id: str | None = None
    session_ids: Annotated[list[str], Meta(max_length=MAX_HEARTBEAT_IDS)] | None = None


class AddTurnParams(Params):
    """`session.add_turn`: one of `turn` and `turns`."""

    session_id: str
    turn: Raw | UnsetType = UNSET
    turns: Raw | UnsetType = UNSET
    epoch: Int64 | None = None
    op: str | None = None


class AmendTurnParams(Params):
    """`session.amend_turn`: `set` is a merge patch (RFC 7396) of a turn, the last one where nothing says which.

    `index`: from 0, or negative from the end. `role`: the last turn of that role; with `index` a check.
    """

    session_id: str
    set: Raw
    index: Int64 | None = None
    role: str | None = None
    epoch: Int64 | None = None
    op: str | None = None


class RecordInterruptionParams(Params):
    """`session.record_interruption`."""

    session_id: str
    epoch: Int64 | None = None
    op: str | None = None


class UpdateParams(Params):
    """`session.update`: `set` is a merge patch (RFC 7396) of the head."""

    session_id: str
    set: Raw
    if_version: Version | None = None
    epoch: Int64 | None = None
    op: str | None = None


class EndParams(Params):
    """`session.end`. `reason` is a word of the worker's own, `detail` any JSON beside it."""

    session_id: str
    reason: str | None = None
    detail: Raw | UnsetType = UNSET
    epoch: Int64 | None = None
    op: str | None = None


Mutation = AddTurnParams | AmendTurnParams | RecordInterruptionParams | UpdateParams | EndParams
"""Params of the mutations of one session, each with an `op`."""


class ClaimParams(Params):
    """`session.claim`. `steal`: also from an owner that is alive. `history` as for a load.

    `heartbeat_timeout_s` and `max_duration_s` are kept where left out.
    """

    session_id: str
    worker_id: str
    steal: bool = False
    history: History = "all"
    heartbeat_timeout_s: HeartbeatTimeout | None = None
    max_duration_s: MaxDuration | None = None


class ClaimNextParams(Params):
    """`session.claim_next`: an orphan that has all of these labels."""

    worker_id: str
    labels: dict[str, str] | None = None
    history: History = "all"


class ReleaseParams(Params):
    """`session.release`: give it up; `epoch` is the claim's."""

    session_id: str
    epoch: Int64


class RegisterParams(Params):
    """`worker.register`: this connection is one of this worker's from now on.

    `instance` identifies the store, on all of its connections; `process` likewise the process it is in. Both are
    random.
    """

    worker_id: str
    instance: str | None = None
    process: str | None = None


class WorkerListParams(Params):
    """`worker.list`."""

    limit: Limit | None = None
    cursor: str | None = None


class Since(Params):
    """A place in the stream of events, after which events are wanted."""

    stream: str
    seq: Version


class SubscribeParams(Params):
    """`events.subscribe`: events of these types, all but `turn` where left out, from now or from a place on."""

    types: Annotated[list[str], Meta(max_length=64)] | None = None
    since: Since | None = None


class QuarantineListParams(Params):
    """`quarantine.list`."""

    limit: Limit | None = None
    cursor: str | None = None


class QuarantineShowParams(Params):
    """`quarantine.show`."""

    session_id: str


class QuarantineRetryParams(Params):
    """`quarantine.retry`: these sessions, or all."""

    session_ids: Annotated[list[str], Meta(max_length=1000)] | None = None


class QuarantineDropParams(Params):
    """`quarantine.drop`."""

    session_id: str


class DrainParams(Params):
    """`server.drain`: take no new sessions, or take them again."""

    on: bool


class CheckParams(Params):
    """`server.check`: compare memory with the store, and `repair` what can be repaired safely."""

    repair: bool = False


class EraseParams(Params):
    """`server.erase`: delete a session, and the bytes of it that are left in files. `end`: a live one as well."""

    session_id: str
    end: bool = False
    timeout_s: PositiveSeconds | None = None


class FlushParams(Params):
    """`server.flush`: these sessions, or all."""

    session_ids: Annotated[list[str], Meta(max_length=100_000)] | None = None
    timeout_s: PositiveSeconds | None = None
