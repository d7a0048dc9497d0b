"""The verb that lists workers, for operators."""

from __future__ import annotations

from typing import Final

from msgspec import UNSET

from callstate_client.engine.interfaces import Caller, Deferred, InSteps, Steps, in_steps
from callstate_client.engine.long_result import Result
from callstate_client.engine.rules.context import Context
from callstate_client.engine.user import UNKNOWN
from callstate_client.model.times import format_us
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import WorkerListParams
from callstate_client.protocol.results import WorkerInfo, WorkerListResult

DEFAULT_LIMIT: Final = 1000
"""Workers per page, if the request gives no limit."""

LOOKS_A_PAGE: Final = 20_000
"""The most sessions counted for one page, unless a single worker has more."""

LOOKS_A_STEP: Final = 1000
"""Sessions counted in one step: a microsecond for each ten, and more for those in no processor cache."""


def list_workers(ctx: Context, caller: Caller, p: WorkerListParams) -> Result | Deferred | InSteps:
    """{"limit":100}"""
    return in_steps(_list(ctx, caller, p))


def _list(ctx: Context, caller: Caller, p: WorkerListParams) -> Steps:
    workers, owned = ctx.registry.workers, ctx.table.index.owned
    ids = sorted(
        worker_id for worker_id in workers.ids()
        if worker_id > (p.cursor or "") and _is_shown(ctx, caller, worker_id)
    )  # fmt: skip
    page: list[WorkerInfo] = []
    shown = looked = looked_in_step = 0
    for worker_id in ids[: p.limit or DEFAULT_LIMIT]:
        sessions = owned.get(worker_id)
        looked += 0 if sessions is None else len(sessions)
        if shown and looked > LOOKS_A_PAGE:
            break
        live = 0
        for some in () if sessions is None else sessions.chunks(LOOKS_A_STEP):
            live += sum(not session.ended for session in some)
            looked_in_step += len(some)
            if looked_in_step >= LOOKS_A_STEP:
                looked_in_step = 0
                yield
        shown += 1
        if worker_id in workers.ids():  # else it has left meanwhile
            page.append(_described(ctx, worker_id, live))
    result = WorkerListResult(page)
    if shown < len(ids):
        result.next_cursor = ids[shown - 1]
    return encode_json(result)


def _is_shown(ctx: Context, caller: Caller, worker_id: str) -> bool:
    """Whether a worker is shown to the caller's user, as the sessions that it creates are."""
    return ctx.guard is None or ctx.guard.sees(caller.user, ctx.registry.uid_of(worker_id), UNKNOWN)


def _described(ctx: Context, worker_id: str, sessions: int) -> WorkerInfo:
    known = ctx.registry.workers.describe(worker_id)
    return WorkerInfo(
        worker_id=worker_id,
        state=known.state.value,
        connections=known.connections,
        sessions=sessions,
        watched=known.watched,
        pid=known.pid or UNSET,
        since=format_us(known.joined_us) if known.joined_us else UNSET,
    )
