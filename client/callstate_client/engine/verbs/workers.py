"""The verb that lists workers, for operators."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET

from callstate_client.engine.interfaces import Caller
from callstate_client.engine.rules.context import Context
from callstate_client.engine.user import UNKNOWN
from callstate_client.model.times import format_us
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import WorkerListParams
from callstate_client.protocol.results import WorkerInfo, WorkerListResult

DEFAULT_LIMIT: Final = 1000
"""Workers per page, if the request gives no limit."""

LOOKS_A_PAGE: Final = 20_000
"""The most sessions counted for one page, a millisecond or two, unless a single worker has more."""


def list_workers(ctx: Context, caller: Caller, p: WorkerListParams) -> bytes:
    """{"limit":100}"""
    registry, owned = ctx.registry, ctx.table.index.owned
    ids = sorted(
        worker_id for worker_id in registry.workers.ids()
        if worker_id > (p.cursor or "") and _is_shown(ctx, caller, worker_id)
    )  # fmt: skip
    page: list[WorkerInfo] = []
    looked = 0
    for worker_id in ids[: p.limit or DEFAULT_LIMIT]:
        looked += len(owned.get(worker_id, ()))
        if page and looked > LOOKS_A_PAGE:
            break
        page.append(_described(ctx, worker_id))
    result = WorkerListResult(page)
    if len(page) < len(ids):
        result.next_cursor = page[-1].worker_id
    return encode_json(result)


def _is_shown(ctx: Context, caller: Caller, worker_id: str) -> bool:
    """Whether a worker is shown to the caller's user, as the sessions that it creates are."""
    return ctx.guard is None or ctx.guard.sees(caller.user, ctx.registry.uid_of(worker_id), UNKNOWN)


def _described(ctx: Context, worker_id: str) -> WorkerInfo:
    known = ctx.registry.workers.describe(worker_id)
    return WorkerInfo(
        worker_id=worker_id,
        state=known.state.value,
        connections=known.connections,
        sessions=sum(not session.ended for session in ctx.table.index.owned.get(worker_id, ())),
        watched=known.watched,
        pid=known.pid or UNSET,
        since=format_us(known.joined_us) if known.joined_us else UNSET,
    )
