"""Waiting until what calls have queued is delivered, also while all tasks of the loop are being cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from callstate_client.calls.outbox.queue import Outbox
from callstate_client.errors import UndeliveredError


async def flush(outboxes: Collection[Outbox], timeout_s: float) -> None:
    """Return when these are empty, or after so long.

    The first cancellation of the waiting is kept until then: at the end of `asyncio.run`, or of a server that is
    told to stop, whoever leaves a call is cancelled while it does, and the tasks that deliver along with it. They
    are started anew. The second one is for somebody who means it.

    Raises:
        asyncio.CancelledError: cancelled; the first time, after all is done.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    cancelled: asyncio.CancelledError | None = None
    while True:
        tasks = [task for outbox in outboxes if (task := outbox.resume()) is not None]
        left_s = until - loop.time()
        if not tasks or left_s <= 0:
            break
        try:
            await asyncio.wait(tasks, timeout=left_s)
        except asyncio.CancelledError as error:
            if cancelled is not None:
                raise
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def deliver_or_tell(outbox: Outbox, timeout_s: float) -> None:
    """Deliver what a call that is left has queued; what remains goes on in the background.

    Raises:
        UndeliveredError: there is something that remains. Logged, too.
        asyncio.CancelledError: as `flush`.
    """
    failure: UndeliveredError | None = None
    try:
        await flush((outbox,), timeout_s)
    finally:
        if len(outbox):
            failure = outbox.what_is_left(going_on=True)
    if failure is not None:
        raise failure


async def deliver_or_give_up(outboxes: Collection[Outbox], timeout_s: float) -> UndeliveredError | None:
    """Deliver what all calls of a store have queued, and no more after that; gives what was left, logged a call.

    Raises:
        asyncio.CancelledError: as `flush`.
    """
    failures: list[UndeliveredError] = []
    try:
        await flush(outboxes, timeout_s)
    finally:
        failures = [error for outbox in outboxes if len(outbox) and (error := outbox.give_up()) is not None]
    if len(failures) < 2:
        return failures[0] if failures else None
    unsent = {session_id: count for error in failures for session_id, count in error.unsent.items()}
    unknown = {session_id: count for error in failures for session_id, count in error.unknown.items()}
    parts = f"{sum(unsent.values())} never sent, {sum(unknown.values())} with an unknown outcome"
    text = f"mutations of {len(failures)} calls not acknowledged"
    return UndeliveredError(f"{text}: {parts}", unsent, unknown)
