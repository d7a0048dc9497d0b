"""Hold: a call for as long as a block lasts; how a session is created or claimed, and what a cancelled entry does.

Entering has more outcomes than success and failure. The entry can be cancelled, or get no reply, after the daemon
has created or claimed the session: then its caller may be on the line and no worker has the call. So entering is a
task of its own, which continues in the background after a cancellation and releases what it gets, for another
worker to claim. The same Hold entered again joins that task, or takes the call back. The creation carries one `op`,
so it takes effect once however often it is sent.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from types import TracebackType
from typing import Final

from callstate_client.calls.handle import CallHandle
from callstate_client.calls.held import HeldCalls
from callstate_client.calls.hold_rules import (
    HoldOptions,
    end_classes,
    has_ended,
    held_elsewhere,
    not_claimable,
    not_resumed,
    taken,
)
from callstate_client.calls.task import CancelOnLost, check_watchdog
from callstate_client.errors import (
    CallstateError,
    ConflictError,
    FencedError,
    MethodNotFoundError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
)
from callstate_client.model.state import SessionState
from callstate_client.protocol.results import SaveResult
from callstate_client.store import Record
from callstate_client.transport.backoff import DELIVER, Backoff
from callstate_client.uncopied import Uncopied

__all__ = ["Hold"]

_log = logging.getLogger("callstate")

GIVE_UP_S: Final = 30.0
"""How long it is tried to release what an unanswered entry may have got, seconds: without heartbeats it is
suspected by then, unless the daemon was away."""


class Hold(Uncopied):
    """What `store.hold()` returns: creates or claims the session on entry, ends or releases it on exit.

    Args:
        held: the calls of the store.
        options: the arguments of `hold()` that both fronts have.
        cancel_on_lost, watchdog_s: see `CallStore.hold`.

    Raises:
        TypeError, ValueError: the arguments contradict each other, or the watchdog's timeout is not above 0.
    """

    instead = "call hold() again"

    def __init__(
        self, held: HeldCalls, options: HoldOptions, *, cancel_on_lost: bool, watchdog_s: float | None
    ) -> None:
        if watchdog_s is not None:
            check_watchdog(watchdog_s)  # now: once the session is created, it would be too late
            if options.beat != "auto":
                raise ValueError("watchdog_s needs beat='auto': with beat='manual' it has no heartbeats to stop")
        self._held = held
        self._store = held.store
        self._options = options
        self._end_on = end_classes(options.end_on)
        self._cancel_on_lost = cancel_on_lost
        self._guard: CancelOnLost | None = None
        self._watchdog_s = watchdog_s
        self._op = held.store.new_op()
        self._tried = False
        self._entering: asyncio.Task[CallHandle] | None = None
        self._releasing: asyncio.Task[None] | None = None
        self._handle: CallHandle | None = None

    @property
    def id(self) -> str:
        """The session's id."""
        return self._options.id

    # -- entering -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> CallHandle:
        if self._handle is not None:
            raise RuntimeError(f"{self.id} is already held by this block")
        self._handle = await self.open()
        if self._cancel_on_lost:
            self._guard = self._handle.cancel_on_lost()
        return self._handle

    async def open(self) -> CallHandle:
        """Enter without a block; `close()` of the call leaves it.

        Raises:
            CallstateError: see `CallStore.hold`.
            StoreClosedError: the store was closed meanwhile.
        """
        if self._releasing is not None:
            self._releasing.cancel()
            await asyncio.wait((self._releasing,))
            self._releasing = None
        if self._entering is None or _is_spent(self._entering):
            self._entering = self._held.start_entry(self.id, self._enter())
        entering = self._entering
        try:
            await asyncio.wait((entering,))
            if entering.cancelled() and self._held.closing:  # it is not this task that was cancelled
                raise StoreClosedError
            handle = entering.result()
        except asyncio.CancelledError:
            self._release_later(entering)
            raise
        except CallstateError as error:
            if error.retryable:  # such as a timeout: the daemon may have done it
                self._release_later(entering)
            raise
        self._entering = None
        handle.end_on = self._end_on
        if self._watchdog_s is not None:
            handle.start_watchdog(self._watchdog_s)
        return handle

    def _release_later(self, entering: asyncio.Task[CallHandle]) -> None:
        if not self._store.closed:  # else nothing can be released
            name = f"callstate-leave-{self.id}"
            self._releasing = self._held.background.start(self._release_unused(entering), name)

    async def _enter(self) -> CallHandle:
        again, self._tried = self._tried, True
        self._held.check_takes_more(self.id)
        options = self._options
        if isinstance(options.call, str):
            return await self._claim()
        if again:  # what an earlier entry got may be about to be released
            await self._held.settle_before_claim(self.id, take_over=False)
        if options.resume:
            return await self._create_or_claim(options.call, again)
        return await self._create(options.call, again, replace_ended=options.replace_ended)

    async def _release_unused(self, entering: asyncio.Task[CallHandle]) -> None:
        """Release what a cancelled or unanswered entry got."""
        await asyncio.wait((entering,))
        if entering.cancelled():
            return
        error = entering.exception()
        with suppress(CallstateError, TimeoutError):
            if error is None:
                _log.info("%s is released: its entry was cancelled", self.id)
                await entering.result().release()
            elif isinstance(error, CallstateError) and error.retryable:
                async with asyncio.timeout(GIVE_UP_S):
                    await self._give_up()

    async def _give_up(self) -> None:
        backoff = Backoff(DELIVER)
        while True:
            try:
                return await self._held.give_up_if_ours(self.id)
            except CallstateError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(backoff.pause_s())

    async def _create_or_claim(self, state: SessionState, again: bool) -> CallHandle:
        with suppress(ConflictError):
            return await self._create(state, again, replace_ended=False)
        try:
            return await self._claim()
        except SessionNotFoundError:  # it was deleted meanwhile
            return await self._create(state, again, replace_ended=False)
        except SessionEndedError as error:
            if not self._options.replace_ended:
                raise not_resumed(error, self.id) from error
            return await self._create(state, again, replace_ended=True)

    async def _create(self, state: SessionState, again: bool, *, replace_ended: bool) -> CallHandle:
        if self._store._redaction is not None:
            state.history = self._store._redaction.history(state)
        try:
            saved = await self._save(state, 0)
        except ConflictError as error:
            known = await self._find(state.id)
            if not (replace_ended and has_ended(error, known)):
                raise taken(error, state.id, known) from error
            try:  # only the version that has ended: of two workers that try, one gets the id
                saved = await self._save(state, error.version)
            except ConflictError as other:
                raise taken(other, state.id, await self._find(state.id)) from other
        timeout_s = saved.heartbeat_timeout_s or self._options.heartbeat_timeout_s
        labels = dict(self._options.labels or {})
        record = Record(state, saved.version, heartbeat_timeout_s=timeout_s, labels=labels)
        epoch = saved.epoch
        if again:  # the session may be that of an earlier entry, and released since
            with suppress(MethodNotFoundError):
                known = await self._store.claim(state.id, history="none")
                record.version, record.labels, epoch = known.version, known.labels, known.epoch
        if epoch is None:
            epoch = await self._epoch_of_older_daemon(state.id)
        return await self._held.add(record, beat=self._options.beat, epoch=epoch)

    async def _save(self, state: SessionState, if_version: int | None) -> SaveResult:
        return await self._store._execute(self._options.create(state, if_version, self._op), None)

    async def _find(self, session_id: str) -> Record | CallstateError:
        """The session that has the id, or why it can't be read."""
        try:
            return await self._store.get(session_id, "none")
        except CallstateError as error:
            return error

    async def _epoch_of_older_daemon(self, session_id: str) -> int | None:
        """The epoch of the session just created, which an older daemon's reply to a save does not have, and which
        is not always 0: the id may have been used before. None if it is not known, which is no failure: the session
        exists.

        Registered workers need it as well: a session that was stolen from this worker, and released again, has no
        owner and would take this worker's late turns.

        Raises:
            FencedError: another worker has claimed it already.
        """
        known = await self._find(session_id)
        if isinstance(known, CallstateError):
            return None
        if known.owner not in (None, self._store._claimant):
            text = f"{session_id} was claimed by {known.owner} while it was being created"
            raise FencedError(text, epoch=known.epoch, owner=known.owner)
        return known.epoch

    async def _claim(self) -> CallHandle:
        options = self._options
        await self._held.settle_before_claim(self.id, take_over=options.resume)
        if not (options.steal and await self._held.was_claimed_since(self.id)):
            self._held.check_unheld(self.id, steal=options.steal)
        features = await self._store.features() if options.has_timeouts else ()
        request = options.claim(self._store._claimant, features)
        try:
            record = await self._store._execute(request, None)
        except ConflictError as error:
            raise held_elsewhere(error, self.id) from error
        except SessionEndedError as error:
            raise not_claimable(error, self.id) from error
        except MethodNotFoundError:  # an older daemon, which knows no owners
            record = await self._store.get(self.id)
            if not record.state.is_active:
                raise not_claimable(SessionEndedError(reason=record.ended_reason), self.id) from None
        return await self._held.add(record, beat=self._options.beat, epoch=record.epoch)

    # -- leaving --------------------------------------------------------------------------------------------

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handle, self._handle = self._handle, None
        guard, self._guard = self._guard, None
        assert handle is not None  # noqa: S101 - entered before it is left
        lost = guard is not None and await guard.leave(error)
        await handle.leave(error)
        if lost and handle.lost is not None:
            raise handle.lost from None


def _is_spent(entering: asyncio.Task[CallHandle]) -> bool:
    """Whether this entry has failed, or its call has been released since."""
    if not entering.done():
        return False
    return entering.cancelled() or entering.exception() is not None or entering.result().released
