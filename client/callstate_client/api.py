"""CallStore: the store as a worker sees it.

The verbs of the protocol (session_api.py), and on top of them what a worker does with the calls that it holds
(calls/): hold one, recover those of dead workers, shut down without losing one.
"""

from __future__ import annotations

import asyncio
import signal
from abc import abstractmethod
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, overload

from callstate_client.calls.handle import CallHandle
from callstate_client.calls.heartbeats.schedule import Heartbeats
from callstate_client.calls.heartbeats.task import HeartbeatTask
from callstate_client.calls.held import HeldCalls
from callstate_client.calls.hold import Hold
from callstate_client.calls.hold_rules import BeatMode, EndOn, HoldOptions, end_classes
from callstate_client.calls.recovery.recovery import CONCURRENCY, MAX_ATTEMPTS, Handler, Recovery
from callstate_client.calls.shutdown import FINISH_S, Graceful, LeaveResult, leave
from callstate_client.errors import CallstateError, StoreClosedError, UndeliveredError
from callstate_client.model.state import SessionState
from callstate_client.requests import PreparedRequest
from callstate_client.requests.patches import Beside
from callstate_client.session_api import SessionApi
from callstate_client.transport.backoff import CLOSE_TIMEOUT_S, TIMEOUT_S

__all__ = ["CallStore"]


class CallStore(SessionApi):
    """Keeps the state of live calls. Safe to use from many tasks of one loop.

    Every method raises StoreClosedError after `close()`, a WireError if the daemon refuses, NoDaemonError,
    ConnectionLostError or RequestTimeoutError if it does not answer. `timeout_s` is how long one call may take,
    seconds; None for the store's own. Mutations carry an `op`, so one that is sent twice takes effect once.

    `epoch` of a mutation is a fencing token, as a claim returns it (`Record.epoch`): with it, the request counts as
    the owner's, and raises FencedError once the session has another epoch. Without it (None), the request is not
    fenced; for a call that is held, use the call's methods.
    """

    def __init__(self, close_timeout_s: float = CLOSE_TIMEOUT_S, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(close_timeout_s, timeout_s)
        self._held = HeldCalls(self, self._new_heartbeats(), self._set_draining)
        self._draining = False
        self._drain_changed = asyncio.Event()

    # -- what each kind of store implements ---------------------------------------------------------------

    def _new_heartbeats(self) -> Heartbeats:
        """What sends heartbeats for held calls."""
        return HeartbeatTask(self._beat)

    async def _beat(self, session_id: str) -> float | None:
        """Send a heartbeat for a held call. Returns its timeout, seconds, if that may have changed."""
        await self.update_heartbeat(session_id)
        return None

    @abstractmethod
    async def _close(self) -> None:
        """Close the connections, or whatever answers the requests."""

    def _lose_all(self, error: CallstateError) -> None:
        """In a forked child: the calls belong to the parent, as do the tasks that wait for a change."""
        self._held.abandon(error)
        self._drain_changed = asyncio.Event()

    # -- opening and closing ------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close the store. May be called twice.

        What calls have queued is delivered first, also through a restart of the daemon, for up to
        `close_timeout_s`; calls that are still held are released. A first cancellation waits until that is done.

        Raises:
            UndeliveredError: not all was acknowledged; logged for each call. The store is closed nevertheless.
        """
        failure: UndeliveredError | None = None
        self._held.closing = True
        try:
            try:
                await self._held.background.settle()
            finally:
                if not self.closed:
                    failure = await self._held.deliver_all()
        finally:  # each of them, even if the one before was cancelled
            try:
                await self._held.close()
            finally:
                try:
                    await self._close()
                finally:
                    self._drain_changed.set()
        if failure is not None:
            raise failure

    async def __aenter__(self) -> CallStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except UndeliveredError:  # which was logged
            if error is None:
                raise

    # -- calls --------------------------------------------------------------------------------------------

    # The next two are no coroutines of their own: each is resumed through all those around it.

    def _save(  # pyright: ignore[reportIncompatibleMethodOverride]  # it returns a coroutine all the same
        self,
        state: SessionState,
        if_version: int | None,
        beside: Mapping[str, Any],
        epoch: int | None,
        timeout_s: float | None,
    ) -> Coroutine[Any, Any, int]:
        call = self._held_call(state.id, epoch)
        if call is None or (call.released and not call.unacknowledged):
            return super()._save(state, if_version, beside, epoch, timeout_s)
        return call._in_order.save(state, if_version, beside, self._limit_s(timeout_s))

    def _mutate(  # pyright: ignore[reportIncompatibleMethodOverride]  # as before
        self, request: PreparedRequest[int], timeout_s: float | None, epoch: int | None
    ) -> Coroutine[Any, Any, int]:
        call = None if request.op_of is None else self._held_call(request.op_of, epoch)
        if call is None or not call.unacknowledged:
            return self._execute(request, timeout_s, epoch)
        return call._in_order.execute(request, self._limit_s(timeout_s), fenced=epoch is not None)

    async def _update_beside(
        self,
        session_id: str,
        if_version: int | None,
        patch: dict[str, Any],
        beside: Beside,
        *,
        epoch: int | None,
        timeout_s: float | None,
    ) -> int:
        call = self._held_call(session_id, epoch)
        if call is None or not call.unacknowledged:
            return await self._rewrite_head(session_id, if_version, patch, beside, epoch=epoch, timeout_s=timeout_s)
        return await call._in_order.rewrite_head(
            session_id, if_version, patch, beside, self._limit_s(timeout_s), fenced=epoch is not None
        )

    def _held_call(self, session_id: str, epoch: int | None) -> CallHandle | None:
        """The call that this store holds under this id; None if this is another epoch's."""
        call = self._held.handles.get(session_id)
        return call if call is not None and call.lost is None and epoch in (None, call.epoch) else None

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s

    def hold(
        self,
        call: SessionState | str,
        *,
        labels: Mapping[str, str] | None = None,
        heartbeat_timeout_s: float | None = None,
        max_duration_s: float | None = None,
        beat: BeatMode = "auto",
        end_on: EndOn = (),
        steal: bool = False,
        cancel_on_lost: bool = False,
        watchdog_s: float | None = None,
        replace_ended: bool = False,
        resume: bool = False,
    ) -> Hold:
        """Hold a call for as long as the block lasts: `async with store.hold(...) as call`.

        A normal exit ends the session with reason `completed`; an exception in `end_on`, also within a group, ends
        it with the exception's `reason`, or its name in snake case; any other exception, and a cancellation,
        releases it, for another worker to claim. The exception propagates in each case.

        An entry that is cancelled, or gets no reply, releases in the background what it may have created or
        claimed: the caller may be on the line, so it is a call for another worker. The same Hold can be entered
        again.

        Args:
            call: a state, which is created, as `active` unless it was given a status; or the id of an existing
                session, which is claimed and keeps its status.
            labels: up to 16 short strings to select calls by; for a new session.
            heartbeat_timeout_s: how long the call may go without a heartbeat before it becomes suspect, seconds.
            max_duration_s: how long the call may last, seconds.
            beat: `"auto"`: heartbeats are sent in the background; `"manual"`: you send them by `call.beat()`.
            end_on: exceptions that mean the call is over: one class, or several.
            steal: claim it even from a live worker.
            cancel_on_lost: cancel the block as soon as the call is lost; the block then raises `call.lost`.
                Otherwise the block continues, and can check `call.lost` or `await call.wait_lost()`.
            watchdog_s: send heartbeats only while the call's task calls `call.alive()` at least this often,
                seconds. If it does not, the call becomes suspect a heartbeat timeout later, and another worker may
                claim it, unless `alive()` is called before that. Without a watchdog, a task that hangs keeps its
                call for as long as the event loop runs.
            replace_ended: if the call with this id has ended, create a new one in its place, with the next epoch;
                the old one's history, counters, labels, timeouts and reason are deleted. If two workers try at
                once, one of them gets it. For a provider that uses a Call-ID twice.
            resume: create or claim, whichever fits, for a stream that may reconnect to any worker. An existing
                session with this state's id is claimed if it has no live owner: its worker is gone, silent or has
                released it, it was reaped and is still in memory, or it belongs to this worker (a block of this
                store that still holds it then loses it). An existing session keeps its state and labels: of the
                arguments only the timeouts are applied to it. With `replace_ended`, one that has ended is
                replaced; with `steal`, one that a live worker holds is taken.

        Raises:
            ConflictError: on entry: a session with this id exists (the error has its `status` and, if it has ended,
                `ended_at` and `reason`), or can't be taken over with `resume`; by id: another worker holds it.
            FencedError: on entry: another worker claimed it while it was being created.
            SessionNotFoundError, SessionEndedError: on entry by id: there is none, or it has ended.
            UndeliveredError: on entry: this store held it before, and what was queued then is not yet acknowledged.
        """
        options = HoldOptions(
            call=call,
            labels=labels,
            heartbeat_timeout_s=heartbeat_timeout_s,
            max_duration_s=max_duration_s,
            beat=beat,
            end_on=end_on,
            steal=steal,
            replace_ended=replace_ended,
            resume=resume,
        )
        return Hold(self._held, options, cancel_on_lost=cancel_on_lost, watchdog_s=watchdog_s)

    async def open_call(
        self,
        call: SessionState | str,
        *,
        labels: Mapping[str, str] | None = None,
        heartbeat_timeout_s: float | None = None,
        max_duration_s: float | None = None,
        beat: BeatMode = "auto",
        end_on: EndOn = (),
        steal: bool = False,
        watchdog_s: float | None = None,
        replace_ended: bool = False,
        resume: bool = False,
    ) -> CallHandle:
        """Like `hold()`, for frameworks that report the beginning and end of a call by callbacks: `await
        call.close()` or `await call.close(error)` leaves it.

        Args:
            call: a state or an id; all parameters, and the errors, are those of `hold()`.
        """
        return await self.hold(
            call,
            labels=labels,
            heartbeat_timeout_s=heartbeat_timeout_s,
            max_duration_s=max_duration_s,
            beat=beat,
            end_on=end_on,
            steal=steal,
            watchdog_s=watchdog_s,
            replace_ended=replace_ended,
            resume=resume,
        ).open()

    @overload
    def recover(
        self, *, labels: Mapping[str, str] | None = None, watch: bool = False
    ) -> AsyncGenerator[CallHandle, None]: ...

    @overload
    def recover(
        self, labels: Mapping[str, str] | None, /, *, watch: bool = False
    ) -> AsyncGenerator[CallHandle, None]: ...

    @overload
    def recover(
        self,
        handler: Handler,
        *,
        labels: Mapping[str, str] | None = None,
        watch: bool = False,
        concurrency: int = CONCURRENCY,
        max_attempts: int | None = MAX_ATTEMPTS,
        end_on: EndOn = (),
    ) -> Coroutine[Any, Any, None]: ...

    def recover(
        self,
        handler: Handler | Mapping[str, str] | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        watch: bool = False,
        concurrency: int = CONCURRENCY,
        max_attempts: int | None = MAX_ATTEMPTS,
        end_on: EndOn = (),
    ) -> AsyncGenerator[CallHandle, None] | Coroutine[Any, Any, None]:
        """Take over the calls of dead workers, one by one: `await store.recover(handler, watch=True)`.

        `await handler(call)` runs in a task of its own for each, in the call's block: by the rules of `hold()` the
        call ends when the handler returns, and is released when it raises, to be tried again after a pause that
        grows. A cancellation of `recover()` cancels the handlers, which releases their calls.

        Without a handler, `async for call in store.recover(): …` yields calls that are held, each to be left by
        `async with call:`, which ends it, or by `await call.release()`. The next one is claimed when the iteration
        gets there, so a body that waits for the end of its call keeps all others waiting, and those are reaped
        after their grace period: start a task for each.

        A call that comes back, because its handler raised or its worker died, is held back for a while: from one
        second to half a minute, longer each time. Without `watch` none is yielded twice.

        Args:
            handler: continues a call.
            labels: only calls that have all of these.
            watch: continue for ever, waiting for more calls.
            concurrency: how many handlers run at once; further calls are left to other workers.
            max_attempts: when a handler raises, and its call has been claimed this often in a row, by any worker
                and each time for less than a minute, the call is released and ignored from then on: another worker
                    may
                claim it, and the daemon ends it if none does. None: no limit.
            end_on: exceptions of the handler that mean the call is over; see `hold()`.
        """
        if not callable(handler):
            return Recovery(self._held, handler or labels, watch=watch).calls()
        recovery = Recovery(self._held, labels, watch=watch)
        return recovery.run(handler, concurrency, max_attempts, end_classes(end_on))

    # -- shutting down ----------------------------------------------------------------------------------------

    async def leave(self, finish_s: float = FINISH_S) -> LeaveResult:
        """Shut down without losing a call: accept no more, let those that are held end, release the rest.

        For the shutdown hook of a framework that handles signals itself. `hold()`, `open_call()` and `recover()`
        accept no more calls from now on; what each call has queued is delivered. The store stays open.

        Args:
            finish_s: how long the calls may take to end, seconds. Those that are still held after that are released
                for other workers to claim; their blocks see `call.lost`, or are cancelled with `cancel_on_lost`.
        """
        self._held.take_no_more()
        return await leave(self._held, finish_s, asyncio.Event())

    def graceful(
        self, finish_s: float = FINISH_S, signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT)
    ) -> Graceful:
        """Shut down on a signal: `async with store.graceful() as leaving: await leaving.wait()`.

        After the first signal no more calls are accepted; leaving the block waits for those that are held, as
        `leave()` does. A second signal releases the rest at once. Like all signal handling, it needs the main
        thread.

        Args:
            finish_s: how long the calls may take to end, seconds.
            signals: the signals to react to.
        """
        return Graceful(self._held, finish_s, signals)

    # -- draining -------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether the host is draining, that is, refuses new sessions. Known from the registration, and kept up to
        date while calls are held or a task waits for it."""
        return self._draining

    async def wait_draining(self) -> None:
        """Wait until the host is draining.

        Raises:
            StoreClosedError: the store is closed.
        """
        self._held.watch.start()
        while not self.draining:
            if self.closed:
                raise StoreClosedError
            self._drain_changed.clear()
            await self._drain_changed.wait()

    def _set_draining(self, drains: bool) -> None:
        self._draining = drains
        self._drain_changed.set()
