"""Sending what an outbox has, one request at a time: without a task while all is well, else by one.

A request that needs nothing awaited is posted as the store gathers the requests of an iteration of the loop, so
that all turns of the iteration are in it, and its reply calls back. Actions, amendments and what has to be repeated
take a task. That can be cancelled at any await; another one continues, started by the next mutation or by
`resume()`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from callstate_client import protocol
from callstate_client.calls.outbox.in_flight import Answer, Claim, InFlight
from callstate_client.errors import CallstateError
from callstate_client.session_api import SessionApi

__all__ = ["Queue", "Sender"]


class Queue(Claim, Protocol):
    """The outbox, as its sender sees it."""

    session_id: str

    def __len__(self) -> int:
        """How many mutations are queued or in flight."""
        ...

    @property
    def is_awaited(self) -> bool:
        """Whether a task waits for any of them."""
        ...

    def next_request(self) -> InFlight:
        """The next request; its mutations are in flight from now on."""
        ...

    def check_promising(self) -> None:
        """Check that the request in flight is not certain to be refused.

        Raises:
            CallstateError: it is; this is why.
        """
        ...

    def acknowledged(self, result: protocol.VersionResult) -> None:
        """The request in flight was acknowledged."""
        ...

    def failed(self, error: Exception) -> None:
        """The request in flight was refused, or can't be sent."""
        ...

    def emptied(self) -> None:
        """All is delivered."""
        ...


class Sender:
    """The sender of one outbox. Belongs to the loop it is created in.

    Args:
        queue: what to send.
        store: sends the requests.
    """

    __slots__ = ("_loop", "_posted", "_posting", "_queue", "_store", "_task", "in_flight")

    def __init__(self, queue: Queue, store: SessionApi) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue = queue
        self._store = store
        self.in_flight: InFlight | None = None
        """The request that is neither acknowledged nor refused. It outlives a task that is cancelled."""
        self._task: asyncio.Task[None] | None = None
        self._posting = False  # a request is posted, or will be at the end of this iteration of the loop
        self._posted: asyncio.Future[None] | None = None  # for those that wait until that is over

    def begin(self) -> None:
        """See that what is queued is being sent."""
        if self._posting or (self._task is not None and not self._task.done()):
            return
        # a request that a cancelled task has left is repeated by a task
        if self.in_flight is None and self._store._gather(self._post):
            self._posting = True
        else:
            self._start_task()

    def resume(self) -> asyncio.Future[None] | None:
        """The same.

        Returns:
            a future, which is done when all is delivered, or earlier: then call this again; None if nothing is
            queued.
        """
        if not len(self._queue):
            return None
        self.begin()
        if not self._posting:
            return self._task
        if self._posted is None:
            self._posted = self._loop.create_future()
        return self._posted

    def stop(self) -> None:
        """Send nothing more: the queue was emptied."""
        self._abandon()
        if self._task is not None:
            self._task.cancel()
        self._continue()

    def forget(self) -> None:
        """In a forked child: requests and tasks are the parent's."""
        self._abandon()
        self._task = self._posted = None
        self._posting = False

    def _abandon(self) -> None:
        if self.in_flight is not None:
            self.in_flight.abandon()
            self.in_flight = None

    # -- without a task ---------------------------------------------------------------------------------------

    def _post(self) -> None:
        if not self._posting:  # stopped meanwhile
            return
        queue, posted = self._queue, None
        while len(queue) and posted is None:
            request = self.in_flight = queue.next_request()
            try:
                queue.check_promising()
                posted = request.post(queue.epoch, self._answered)
            except Exception as error:  # noqa: BLE001 - a bug must not block the rest for ever
                self._failed(error)
        if not posted:
            self._continue()

    def _answered(self, answer: Answer) -> None:
        request = self.in_flight
        if isinstance(answer, protocol.VersionResult):
            self.in_flight = None
            self._queue.acknowledged(answer)
        elif not isinstance(answer, CallstateError) or not (
            request is not None and request.failed(answer, self._queue)
        ):
            self._failed(answer)
        # what has failed and is to be repeated is still in flight
        if not len(self._queue) or self.in_flight is not None or not self._store._gather(self._post):
            self._continue()

    def _continue(self) -> None:
        """Go on with a task, if there is anything left to do."""
        self._posting = False
        if self._posted is not None:
            self._posted.set_result(None)
            self._posted = None
        if len(self._queue):
            self._start_task()
        else:
            self._queue.emptied()

    # -- by a task --------------------------------------------------------------------------------------------

    def _start_task(self) -> None:
        self._task = self._loop.create_task(self._send_all(), name=f"callstate-outbox-{self._queue.session_id}")
        self._task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and self._queue.is_awaited:
            self.resume()  # all tasks were cancelled, and some of them are waiting for this one

    async def _send_all(self) -> None:
        queue = self._queue
        while len(queue):
            request = self.in_flight = self.in_flight or queue.next_request()
            try:
                queue.check_promising()
                result = await request.deliver(queue)
            except Exception as error:  # noqa: BLE001 - a bug must not block the rest for ever
                self._failed(error)
            else:
                self.in_flight = None
                queue.acknowledged(result)
        queue.emptied()

    def _failed(self, error: Exception) -> None:
        self.in_flight = None
        self._queue.failed(error)
