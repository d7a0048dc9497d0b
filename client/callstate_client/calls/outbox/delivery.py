"""Waiting until outboxes are empty, even while all tasks of the loop are being cancelled, and reporting what is
left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from callstate_client.calls.outbox.outbox import Outbox
from callstate_client.errors import UndeliveredError

__all__ = ["deliver_or_give_up", "deliver_or_raise"]

_log = logging.getLogger("callstate")


async def _wait_empty(outboxes: Collection[Outbox], timeout_s: float) -> None:
    """Return when these are empty, or after this many seconds.

    A first cancellation is raised only then. At the end of `asyncio.run`, or when a server stops, a task is
    cancelled while it leaves a call, along with the tasks that send: those are started again. A second cancellation
    is raised at once: it is meant.

    Raises:
        asyncio.CancelledError: see above.
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


def _report(outbox: Outbox, *, going_on: bool) -> UndeliveredError | None:
    """Log and return an error that lists what is not acknowledged; None if nothing can be lost.

    Args:
        outbox: of the call.
        going_on: whether delivery continues.
    """
    session_id, (unsent, unknown) = outbox.session_id, outbox.count_undelivered()
    if not unsent + unknown:
        return None
    parts = [f"{unknown} sent and not answered, outcome unknown"] if unknown else []
    parts += [f"{unsent} never sent"] if unsent else []
    why = f" ({outbox.last_error})" if outbox.last_error else ""
    after = "; delivery goes on while the store is open" if going_on else ""
    error = UndeliveredError(
        f"mutations of {session_id} not acknowledged: {', '.join(parts)}{why}{after}",
        {session_id: unsent} if unsent else {},
        {session_id: unknown} if unknown else {},
        going_on=going_on,
    )
    error.__cause__ = outbox.last_error
    _log.warning("%s", error)
    return error


def _give_up(outbox: Outbox) -> UndeliveredError | None:
    if not len(outbox):
        return None
    error = _report(outbox, going_on=False)
    outbox.give_up(error or UndeliveredError())
    return error


async def deliver_or_raise(outbox: Outbox, timeout_s: float) -> None:
    """Deliver what a call that is left has queued; the remainder is delivered in the background.

    Args:
        outbox: the call's.
        timeout_s: how long to wait for it, seconds.

    Raises:
        UndeliveredError: there is a remainder. It is logged too.
        asyncio.CancelledError: a first cancellation, when the waiting is over; a second one, at once.
    """
    failure: UndeliveredError | None = None
    try:
        await _wait_empty((outbox,), timeout_s)
    finally:
        if len(outbox):
            failure = _report(outbox, going_on=True)
    if failure is not None:
        raise failure


async def deliver_or_give_up(outboxes: Collection[Outbox], timeout_s: float) -> UndeliveredError | None:
    """Deliver what all calls of a store have queued, and nothing after that.

    Args:
        outboxes: of all calls that have anything queued.
        timeout_s: how long to wait for them together, seconds.

    Returns:
        what was not acknowledged; logged for each call.

    Raises:
        asyncio.CancelledError: as `deliver_or_raise`.
    """
    failures: list[UndeliveredError] = []
    try:
        await _wait_empty(outboxes, timeout_s)
    finally:
        failures = [error for outbox in outboxes if (error := _give_up(outbox)) is not None]
    if len(failures) < 2:
        return failures[0] if failures else None
    unsent = {session_id: count for error in failures for session_id, count in error.unsent.items()}
    unknown = {session_id: count for error in failures for session_id, count in error.unknown.items()}
    parts = f"{sum(unsent.values())} never sent, {sum(unknown.values())} with an unknown outcome"
    text = f"mutations of {len(failures)} calls not acknowledged"
    return UndeliveredError(f"{text}: {parts}", unsent, unknown)
