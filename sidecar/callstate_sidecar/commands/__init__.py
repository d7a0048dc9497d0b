"""The verb table: what each method of the wire protocol takes, and what answers it. No I/O in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw, UnsetType

from callstate_client import protocol as p
from callstate_sidecar.commands import reading, writing
from callstate_sidecar.commands.context import Context, Later, Miss
from callstate_sidecar.door import params_error, undecodable

__all__ = ["VERBS", "Context", "Later", "Miss", "Verb"]

_NO_PARAMS: Final = b"{}"


class Verb(NamedTuple):
    """One method."""

    decode: Callable[[bytes | Raw], Any]
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


def _verb(params: type[p.Params], run: Callable[[Context, Any], bytes | Later]) -> Verb:
    return Verb(msgspec.json.Decoder(params).decode, run)


VERBS: Final[Mapping[str, Verb]] = {
    "session.save": _verb(p.SaveParams, writing.save),
    "session.load": _verb(p.LoadParams, reading.load),
    "session.delete": _verb(p.DeleteParams, writing.delete),
    "session.list_active": _verb(p.ListActiveParams, reading.list_active),
    "session.list": _verb(p.ListParams, reading.list_sessions),
    "session.heartbeat": _verb(p.HeartbeatParams, reading.heartbeat),
    "session.add_turn": _verb(p.AddTurnParams, writing.add_turn),
    "session.amend_turn": _verb(p.AmendTurnParams, writing.amend_turn),
    "session.record_interruption": _verb(p.RecordInterruptionParams, writing.record_interruption),
    "session.update": _verb(p.UpdateParams, writing.update),
    "session.end": _verb(p.EndParams, writing.end),
    "server.ping": _verb(p.NoParams, reading.ping),
    "server.info": _verb(p.NoParams, reading.info),
    "server.stats": _verb(p.NoParams, reading.stats),
    "server.flush": _verb(p.FlushParams, reading.flush),
}
