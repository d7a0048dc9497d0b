"""The verb table: what each method of the wire protocol takes, and what answers it. No I/O in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Raw, Struct, UnsetType

from callstate_client import protocol as p
from callstate_sidecar.commands import reading, writing
from callstate_sidecar.commands.context import Context, Later, Miss
from callstate_sidecar.door import PlainHead, params_error, undecodable

__all__ = ["VERBS", "VERBS_BY_BYTES", "Context", "Later", "Miss", "Verb"]

_NO_PARAMS: Final = b"{}"


ParamsT = TypeVar("ParamsT")


class _Line(Struct, Generic[ParamsT]):
    """A whole request line of which the method is known: envelope and params in one pass."""

    params: ParamsT


class PlainSaveParams(p.SaveParams):
    """A save of a usual session, decoded as far as it goes in the same pass."""

    session: PlainHead  # type: ignore[assignment]  # what `read_head` takes besides bytes


class Verb(NamedTuple):
    """One method."""

    method: str
    decode: Callable[[bytes | Raw], Any]
    decode_line: Callable[[bytes], Any]
    run: Callable[[Context, Any], bytes | Later]

    def params(self, raw: Raw | UnsetType) -> Any:
        """The request's params, typed.

        Raises:
            InvalidParamsError: one is missing, unknown or wrong.
        """
        try:
            return self.decode(raw if isinstance(raw, Raw) else _NO_PARAMS)
        except msgspec.ValidationError as error:
            raise params_error(error) from error
        except (msgspec.DecodeError, RecursionError) as error:  # a lone surrogate in a string; a deep nest
            raise undecodable(error, "$.params") from error


def _verb(
    method: str,
    params: type[p.Params],
    run: Callable[[Context, Any], bytes | Later],
    usual: type[p.Params] | None = None,
) -> Verb:
    line: Any = _Line[usual or params]  # type: ignore[misc]  # made at run time, one a verb
    return Verb(method, msgspec.json.Decoder(params).decode, msgspec.json.Decoder(line).decode, run)


_TABLE: Final = (
    _verb("session.save", p.SaveParams, writing.save, usual=PlainSaveParams),
    _verb("session.load", p.LoadParams, reading.load),
    _verb("session.delete", p.DeleteParams, writing.delete),
    _verb("session.list_active", p.ListActiveParams, reading.list_active),
    _verb("session.list", p.ListParams, reading.list_sessions),
    _verb("session.heartbeat", p.HeartbeatParams, reading.heartbeat),
    _verb("session.add_turn", p.AddTurnParams, writing.add_turn),
    _verb("session.amend_turn", p.AmendTurnParams, writing.amend_turn),
    _verb("session.record_interruption", p.RecordInterruptionParams, writing.record_interruption),
    _verb("session.update", p.UpdateParams, writing.update),
    _verb("session.end", p.EndParams, writing.end),
    _verb("server.ping", p.NoParams, reading.ping),
    _verb("server.info", p.NoParams, reading.info),
    _verb("server.stats", p.NoParams, reading.stats),
    _verb("server.flush", p.FlushParams, reading.flush),
)

VERBS: Final[Mapping[str, Verb]] = {verb.method: verb for verb in _TABLE}
VERBS_BY_BYTES: Final[Mapping[bytes, Verb]] = {verb.method.encode(): verb for verb in _TABLE}
