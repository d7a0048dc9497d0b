"""events.subscribe: events of sessions, workers and the daemon. Headed by a sample of its params."""

from __future__ import annotations

from callstate_client.engine.interfaces import Caller
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.param_checks import checked_worker
from callstate_client.errors import InvalidParamsError
from callstate_client.protocol.events import DEFAULT_TYPES, GAP, TYPES, Cursor
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import SubscribeParams

_KNOWN = TYPES | {GAP}


def subscribe(ctx: Context, caller: Caller, p: SubscribeParams) -> bytes:
    """{"types":["suspect","orphaned"],"since":{"stream":"9f2c61d07a3be458","seq":17},"worker_id":"w7"}"""
    types = DEFAULT_TYPES if p.types is None else _checked_types(p.types)
    since = None if p.since is None else Cursor(p.since.stream, p.since.seq)
    worker = "" if p.worker_id is None else checked_worker(p.worker_id)
    seq = ctx.events.subscribe(caller, types, since, ctx.now_us(), worker)
    return encode_json({"stream": ctx.events.stream, "seq": seq})


def _checked_types(types: list[str]) -> frozenset[str]:
    """The types, checked.

    Raises:
        InvalidParamsError: there is no such type.
    """
    for place, name in enumerate(types):
        if name not in _KNOWN:
            path, expected = f"$.params.types[{place}]", f"one of {', '.join(sorted(TYPES))}"
            raise InvalidParamsError(
                f"unknown type of event at {path}: expected {expected}", path=path, expected=expected
            )
    return frozenset(types)
