"""The verb table: for each method of the wire protocol, the type of its params and the function that handles it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, Union

import msgspec
from msgspec import Raw, UnsetType

from callstate_client import protocol as p
from callstate_client.engine.interfaces import Caller, Deferred, InSteps
from callstate_client.engine.long_result import Result
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.decode_errors import params_error, undecodable
from callstate_client.engine.sessions.validation.heads import PlainHead
from callstate_client.engine.verbs import (
    end,
    erase,
    heartbeat,
    listing,
    ownership,
    quarantine,
    read,
    save,
    subscribe,
    turns,
    update,
    workers,
)
from callstate_client.model.go_json import Int64

__all__ = ["VERBS", "Verb", "decode_usual"]

_NO_PARAMS: Final = b"{}"


class PlainSaveParams(p.SaveParams):
    """A save of a session in the usual form, decoded in the same pass as the envelope."""

    session: PlainHead  # type: ignore[assignment]  # what `read_head` takes besides bytes


class Verb(NamedTuple):
    """One method."""

    method: str
    decode: Callable[[bytes | Raw], Any]
    run: Callable[[Context, Caller, Any], Result | Deferred | InSteps]
    usual: type[p.Params]
    """The type of its params in nearly every request, decoded together with the envelope."""

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
    run: Callable[[Context, Caller, Any], Result | Deferred | InSteps],
    usual: type[p.Params] | None = None,
) -> Verb:
    return Verb(method, msgspec.json.Decoder(params).decode, run, usual or params)


def _operators_verb(
    method: str, params: type[p.Params], run: Callable[[Context, Caller, Any], Result | Deferred]
) -> Verb:
    """A verb of operators: who has used it is noted."""

    def noted(ctx: Context, caller: Caller, params: Any) -> Result | Deferred:
        result = run(ctx, caller, params)
        if ctx.guard is None:
            ctx.access.note(caller, method, getattr(params, "session_id", ""))
        return result

    return _verb(method, params, noted)


_TABLE: Final = (
    _verb("session.save", p.SaveParams, save.save, usual=PlainSaveParams),
    _verb("session.load", p.LoadParams, read.load),
    _verb("session.delete", p.DeleteParams, end.delete),
    _verb("session.list_active", p.ListActiveParams, listing.list_active),
    _verb("session.list", p.ListParams, listing.list_sessions),
    _verb("session.heartbeat", p.HeartbeatParams, heartbeat.heartbeat),
    _verb("session.add_turn", p.AddTurnParams, turns.add_turn),
    _verb("session.amend_turn", p.AmendTurnParams, turns.amend_turn),
    _verb("session.record_interruption", p.RecordInterruptionParams, turns.record_interruption),
    _verb("session.update", p.UpdateParams, update.update),
    _verb("session.end", p.EndParams, end.end),
    _verb("session.claim", p.ClaimParams, ownership.claim),
    _verb("session.claim_next", p.ClaimNextParams, ownership.claim_next),
    _verb("session.release", p.ReleaseParams, ownership.release),
    _verb("worker.register", p.RegisterParams, ownership.register),
    _verb("worker.list", p.WorkerListParams, workers.list_workers),
    _verb("events.subscribe", p.SubscribeParams, subscribe.subscribe),
    _verb("quarantine.list", p.QuarantineListParams, quarantine.list_quarantined),
    _verb("quarantine.show", p.QuarantineShowParams, quarantine.show),
    _operators_verb("quarantine.retry", p.QuarantineRetryParams, quarantine.retry),
    _operators_verb("quarantine.drop", p.QuarantineDropParams, quarantine.drop),
    _verb("server.ping", p.NoParams, read.ping),
    _verb("server.info", p.NoParams, read.info),
    _verb("server.stats", p.NoParams, read.stats),
    _verb("server.config", p.NoParams, read.config),
    _verb("server.flush", p.FlushParams, read.flush),
    _operators_verb("server.erase", p.EraseParams, erase.erase),
    _verb("server.check", p.CheckParams, read.check),
    _operators_verb("server.drain", p.DrainParams, ownership.drain),
)

VERBS: Final[Mapping[str, Verb]] = {verb.method: verb for verb in _TABLE}


def _usual_request(verb: Verb) -> Any:
    """A request of one verb as a type, tagged by its method."""
    fields = [("id", Int64), ("params", verb.usual), ("jsonrpc", Literal["2.0"])]
    return msgspec.defstruct(
        "Usual", fields, tag_field="method", tag=verb.method, namespace={"verb": verb}, gc=False,
        forbid_unknown_fields=True,
    )  # fmt: skip


decode_usual: Final[Callable[[bytes], Any]] = msgspec.json.Decoder(
    Union[tuple(_usual_request(verb) for verb in _TABLE)]  # noqa: UP007 - made at run time
).decode
"""Decode a request in the form that most clients send, in one pass: `id`, `verb` and typed `params`.

Raises msgspec.MsgspecError for any other request, valid or not. Members that stay bytes are not checked for UTF-8.
"""
