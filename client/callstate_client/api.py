"""The store as a worker sees it: every public method, once, whoever answers.

SidecarStore sends what these methods ask for to the daemon, MemoryStore answers by itself; neither has a say in
names, parameters, checks or decoding, so they can't drift apart.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar, Unpack, overload
from weakref import WeakValueDictionary

from callstate_client import protocol, requests
from callstate_client.calls.end_reasons import EndOn, end_classes
from callstate_client.calls.handle import CallHandle
from callstate_client.calls.heartbeat import Beater, Beats
from callstate_client.calls.hold import Hold
from callstate_client.calls.hold_options import BeatMode
from callstate_client.calls.loss_watch import Watch
from callstate_client.calls.outbox.delivery import deliver_or_give_up
from callstate_client.calls.outbox.queue import Outbox
from callstate_client.calls.outbox.saving import Saving
from callstate_client.calls.recovery import (
    CONCURRENCY,
    MAX_ATTEMPTS,
    Handler,
    Recovery,
)
from callstate_client.calls.shutdown import (
    FINISH_S,
    Graceful,
    LeaveResult,
    leave,
)
from callstate_client.errors import (
    CallstateError,
    ConflictError,
    FencedError,
    MethodNotFoundError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
    UndeliveredError,
)
from callstate_client.model.state import SessionState
from callstate_client.protocol.events import Cursor, Event
from callstate_client.protocol.patches import Beside, Changes, split_changes
from callstate_client.protocol.results import DrainResult
from callstate_client.reads import Asking
from callstate_client.store import Record
from callstate_client.transport.backoff import CLOSE_TIMEOUT_S, TIMEOUT_S

__all__ = ["CallStore"]

SETTLE_S: Final = 2.0
"""How long closing a store waits for what is released in the background, seconds. What is not by then is an
orphan when the reconnect grace is over."""

ResultT = TypeVar("ResultT")

_log = logging.getLogger("callstate")

_stores: WeakValueDictionary[int, CallStore] = WeakValueDictionary()
"""All stores of this process, of whatever thread. No lock: a child might find it held by nobody."""


class EventSource(Protocol):
    """What `CallStore.events()` gives."""

    def __aiter__(self) -> EventSource:
        """The events, as they come."""
        ...

    async def __anext__(self) -> Event:
        """The next one, however long it takes."""
        ...

    async def __aenter__(self) -> EventSource:
        """From now on none is missed."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """No more of them."""
        ...

    def take(self) -> Event | None:
        """The next one, if it has come already."""
        ...

    def close(self) -> None:
        """No more of them; whoever waits for one gets none."""
        ...


class CallStore(Asking):
    """Keeps the state of live calls. Safe to use from many tasks of one loop.

    Every method raises StoreClosedError after `close()`, a WireError where the daemon says no, NoDaemonError,
    ConnectionLostError or RequestTimeoutError where it says nothing. `timeout_s` is how long one call may take,
    seconds; None for the store's own. Mutations carry an `op`, so one that is sent twice happens once.

    `epoch` of a mutation is a fencing token, as a claim gives it (`Record.epoch`): FencedError once the session has
    another. Who gives it speaks for the session's owner. None: any; of a call that is held use the call's methods.
    """

    def __init__(self, close_timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        self.close_timeout_s = close_timeout_s
        """How long leaving a call, and `close()`, wait until what was queued is acknowledged, seconds."""
        self._undelivered: set[Outbox] = set()
        self._beater = self._new_beater()
        self._ops = requests.Ops()
        self._handles: WeakValueDictionary[str, CallHandle] = WeakValueDictionary()
        self._nameless = f"nobody-{secrets.token_hex(6)}"
        self._background: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._drain_told = asyncio.Event()
        self._watch = Watch(self)
        self._leaving = False
        self._recovering: set[EventSource] = set()
        _stores[id(self)] = self

    def _new_beater(self) -> Beats:
        """What beats for the calls that are held."""
        return Beater(self._beat)

    async def _beat(self, session_id: str) -> float | None:
        """Beat for a call that is held; gives its timeout, seconds, where that may be another one now."""
        await self.update_heartbeat(session_id)
        return None

    def _lose_all(self, error: CallstateError) -> None:
        """In a forked child: no call is held here."""
        for handle in [*self._handles.values()]:
            handle.abandon(error)
        self._handles = WeakValueDictionary()
        self._background = set()
        self._watch = Watch(self)
        for outbox in self._undelivered:  # of calls that were left, too
            outbox.abandon()
        self._undelivered = set()

    def _may_have_left(self, reply: Awaitable[bytes]) -> bool:
        """Whether a request that is given up may have reached what answers."""
        return True

    # -- what answers -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def worker_id(self) -> str | None:
        """What this worker calls itself; None for no worker."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What kind of store it is, for logs."""

    @abstractmethod
    async def update_heartbeat(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Say that this call is alive, touching nothing else of its state.

        Raises:
            SessionNotFoundError, SessionEndedError, FencedError: it is not, or not ours.
        """

    @abstractmethod
    async def default_heartbeat_timeout_s(self) -> float:
        """After how much silence a session without a timeout of its own is suspected, seconds."""

    @property
    def _known_features(self) -> Collection[str] | None:
        """The same as far as it is known without asking; None where it is not."""
        return None

    @abstractmethod
    async def _close(self) -> None:
        """Give up what answers."""

    async def close(self) -> None:
        """Give up the store. May be called twice.

        What calls have queued is delivered first, also through a restart of the daemon, for up to
        `close_timeout_s`; those that are still held are released. A first cancellation waits until that is done.

        Raises:
            UndeliveredError: not all was acknowledged; each call is logged. The store is closed all the same.
        """
        failure: UndeliveredError | None = None
        try:
            try:
                await self._settle_background()
            finally:
                if not self.closed:
                    failure = await self._deliver_all()
        finally:
            await self._watch.close()
            await self._beater.close()
            await self._close()
            self._drain_told.set()
        if failure is not None:
            raise failure

    async def _deliver_all(self) -> UndeliveredError | None:
        for handle in [*self._handles.values()]:
            handle._store_closes()
        return await deliver_or_give_up([*self._undelivered], self.close_timeout_s)

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

    def new_op(self) -> str:
        """A name for one mutation, like no other's."""
        return self._ops.new()

    # -- events ---------------------------------------------------------------------------------------------

    @abstractmethod
    def events(self, *types: str, since: Cursor | None = None) -> EventSource:
        """What happens to calls, workers and the store behind, as it happens: `async for event in store.events()`.

        From `async with store.events() as events` on, or else from the first event that is waited for, nothing is
        missed. What could not be kept is told by an event of type `gap`: reconcile by `sessions()` then.

        Args:
            types: which, see `EventType`; none: all but `turn`.
            since: the last event one has (`event.cursor`); what came behind it and is kept comes first.
        """

    # -- the Go package's SessionStore ----------------------------------------------------------------------

    async def save(
        self,
        state: SessionState | None,
        if_version: int | None = None,
        labels: Mapping[str, str] | None = None,
        heartbeat_timeout_s: float | None = None,
        max_duration_s: float | None = None,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int | None:
        """Keep this state, whole, under its id, and set its `updated_at`. None is a no-op.

        Of a call that this store holds, it goes behind what the call has queued, whose turns are in `call.state`
        already; and `if_version=call.version` is the version that the call has by then.

        Args:
            state: what to keep.
            if_version: only if the session has this version; 0: only if there is none yet.
            labels: up to 16 short strings to select calls by; kept as they are where left out.
            heartbeat_timeout_s: silence after which this call is suspected, seconds; same.
            max_duration_s: how long this call may last, seconds; same.

        Returns:
            the new version; None for no state.

        Raises:
            ConflictError: the session has another version.
            SessionEndedError: it was reaped.
            DocumentError: the state was loaded in part, or can't be written as JSON.
        """
        if self.closed:
            raise StoreClosedError
        if state is None:
            return None
        beside = requests.beside_state(labels, heartbeat_timeout_s, max_duration_s, self.new_op())
        return await self._save(state, if_version, beside, epoch, timeout_s)

    async def _save(
        self,
        state: SessionState,
        if_version: int | None,
        beside: Mapping[str, Any],
        epoch: int | None,
        timeout_s: float | None,
    ) -> int:
        held = self._handles.get(state.id)
        if (
            held is not None
            and held.lost is None
            and epoch in (None, held.epoch)
            and (held.unacknowledged or not held.released)
        ):
            limit_s = TIMEOUT_S if timeout_s is None else timeout_s
            return await held._save(Saving(state, if_version, beside), limit_s)
        request = requests.save_document(state, requests.document(state), beside, if_version, epoch)
        return (await self._execute(request, timeout_s)).version

    async def delete(self, session_id: str, *, epoch: int | None = None, timeout_s: float | None = None) -> None:
        """Forget this session and all that is kept of it.

        Raises:
            SessionNotFoundError: there is none.
            FencedError: another worker holds it.
            StoreUnavailableError: it is not in memory, and the store that would know can't be asked.
        """
        await self._execute(requests.delete(session_id, self.new_op(), await self.features()), timeout_s, epoch)

    # -- one call -------------------------------------------------------------------------------------------

    async def add_turn(
        self,
        session_id: str,
        role: str,
        content: str,
        duration_ms: int = 0,
        *,
        at: datetime | None = None,
        extra: dict[str, Any] | None = None,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Append a turn, count it, and add its speech time. Gives the new version.

        Args:
            session_id: of the call.
            role: see `Role`.
            content: what was said.
            duration_ms: how long it took to say, milliseconds.
            at: when; default now.
            extra: further members of the turn.
        """
        request = requests.add_turn(session_id, role, content, duration_ms, at, extra, self.new_op())
        return await self._execute(request, timeout_s, epoch)

    async def amend_last_turn(
        self,
        session_id: str,
        *,
        content: str | None = None,
        duration_ms: int | None = None,
        extra: dict[str, Any] | None = None,
        role: str | None = None,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Change the last turn, or the last one of a role, say to what was spoken of it before the caller cut in.

        As `amend_turn` without an index.
        """
        return await self.amend_turn(
            session_id,
            content=content,
            duration_ms=duration_ms,
            extra=extra,
            role=role,
            epoch=epoch,
            timeout_s=timeout_s,
        )

    async def amend_turn(
        self,
        session_id: str,
        index: int | None = None,
        *,
        content: str | None = None,
        duration_ms: int | None = None,
        extra: dict[str, Any] | None = None,
        role: str | None = None,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Change a turn, say to what was spoken of it before the caller cut in. Gives the new version.

        Args:
            session_id: of the call.
            index: which turn: from 0, or negative from the end; None for the last.
            content: what was said; None leaves it.
            duration_ms: how long it took, milliseconds; None leaves it. Speech time is not counted anew.
            extra: members to put beside; None as a value takes one away.
            role: without an index the last turn of this role; with one, which that turn must have.

        Raises:
            ConflictError: there is no such turn.
            MethodNotFoundError: an index or a role was given, and the daemon is too old to know them.
        """
        if index is not None or role is not None:
            requests.check_amendable(index, role, await self.features())
        request = requests.amend_turn(session_id, index, role, content, duration_ms, extra, self.new_op())
        return await self._execute(request, timeout_s, epoch)

    async def record_interruption(
        self, session_id: str, *, epoch: int | None = None, timeout_s: float | None = None
    ) -> int:
        """Count one interruption (barge-in). Gives the new version."""
        return await self._execute(requests.record_interruption(session_id, self.new_op()), timeout_s, epoch)

    async def update(
        self,
        session_id: str,
        if_version: int | None = None,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
        **changes: Unpack[Changes],
    ) -> int:
        """Change members of the session, all but its history (a merge patch, RFC 7396). Gives the new version.

        Args:
            session_id: of the call.
            if_version: only if the session has this version.
            changes: members by the names SessionState has (`status`, `from_`, `metrics` …); None takes one away; a
                dict patches what is there; further members as `extra={…}`. Also `labels`, which replace those of
                before, `heartbeat_timeout_s` and `max_duration_s`, seconds.

        Raises:
            ConflictError: the session has another version.
            InvalidParamsError: there is no such member (a TypeError too), or it can't be changed.
        """
        patch, beside = split_changes(changes)
        if not beside:
            request = requests.update(session_id, if_version, patch, self.new_op())
            return await self._execute(request, timeout_s, epoch)
        return await self._rewrite_head(session_id, if_version, patch, beside, epoch=epoch, timeout_s=timeout_s)

    async def _rewrite_head(
        self,
        session_id: str,
        if_version: int | None,
        patch: dict[str, Any],
        beside: Beside,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        for left in reversed(range(requests.REWRITES)):
            record = await self.get(session_id, "none", timeout_s=timeout_s)
            request = requests.rewrite_head(record, if_version, patch, beside, epoch, self.new_op())
            try:
                return await self._execute(request, timeout_s)
            except ConflictError:
                if if_version is not None or not left:
                    raise
        raise AssertionError("unreachable")

    async def end(
        self,
        session_id: str,
        reason: str | None = None,
        detail: Any = None,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """The call is over. Ending it again changes nothing. Gives the version.

        Args:
            session_id: of the call.
            reason: a word of the worker's own, up to 64 bytes.
            detail: any JSON beside it.
        """
        return await self._execute(requests.end(session_id, reason, detail, self.new_op()), timeout_s, epoch)

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
        it with the exception's `reason`, or its name in snake case; any other, and cancellation, releases it, for
        another worker to claim. The exception goes on in each case.

        An entry that is cancelled, or gets no answer, releases in the background what it may have created or
        claimed: the caller is on the line, so it is a call for another worker. The same Hold can be entered again.

        Args:
            call: a state, which is created, or the id of a session that is there, which is claimed.
            labels: up to 16 short strings to select calls by; for a new session.
            heartbeat_timeout_s: silence after which the call is suspected, seconds.
            max_duration_s: how long the call may last, seconds; for a new session.
            beat: `"auto"`: heartbeats are sent in the background; `"manual"`: by `call.beat()`.
            end_on: exceptions that mean the call is over: one class, or several.
            steal: claim it also from a worker that is alive.
            cancel_on_lost: cancel the block as soon as the call is lost; what `call.lost` is then goes out of it.
                Else the block runs on, and learns it by `call.lost` or `await call.wait_lost()`.
            watchdog_s: beat only while the call's task calls `call.alive()` at least this often, seconds; else a
                task that hangs keeps its call for as long as the loop turns. When it has not, the call is suspected
                a heartbeat timeout later, and another worker may claim it; until then `alive()` mends it.
            replace_ended: where a call under this id has ended, begin it anew in its place: its history, counters,
                labels and reason are gone, the epoch is the next. Of two who do so at once one gets it. For a
                provider that gives a Call-ID twice.
            resume: whichever fits: where a session of this state's id is there already, it is claimed as by its id,
                and goes on with what is kept of it; the state and the labels given are for a new one. For a worker
                that is told of a call and can't know whether another has begun it. With `replace_ended` an id whose
                call has ended begins anew.

        Raises:
            ConflictError: on entering: a session of this id is there already (the error has its `status`, and where
                it has ended `ended_at` and `reason`); by id: another worker holds it.
            FencedError: on entering: another worker has claimed it in the moment it was created.
            SessionNotFoundError, SessionEndedError: on entering by id: there is none, or it is over.
        """
        return Hold(
            self,
            call,
            labels=labels,
            heartbeat_timeout_s=heartbeat_timeout_s,
            max_duration_s=max_duration_s,
            beat=beat,
            end_on=end_on,
            steal=steal,
            cancel_on_lost=cancel_on_lost,
            watchdog_s=watchdog_s,
            replace_ended=replace_ended,
            resume=resume,
        )

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
        """As `hold()`, for frameworks that tell by callbacks when a call begins and ends: `await call.close()` ends
        it, or `await call.close(error)`.

        Args:
            call, labels, heartbeat_timeout_s, max_duration_s, beat, end_on, steal, watchdog_s, replace_ended: see
                `hold()`, as for the errors.
            resume: likewise.
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

    # -- in the background ----------------------------------------------------------------------------------

    def _in_background(self, work: Coroutine[Any, Any, ResultT], name: str) -> asyncio.Task[ResultT]:
        """A task that lives as long as the store at most; its exception is its waiter's, if there is one."""
        if self.closed:
            work.close()
            raise StoreClosedError
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._no_longer)
        return task

    def _no_longer(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()

    async def _settle_background(self) -> None:
        """Give what goes on in the background a moment to be done, then end it."""
        if self._background:
            await asyncio.wait([*self._background], timeout=SETTLE_S)
        while tasks := [*self._background]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    # -- who holds a call -----------------------------------------------------------------------------------

    @property
    def _claimant(self) -> str:
        """Whom we claim sessions for."""
        return self.worker_id or self._nameless

    async def claim(
        self, session_id: str, *, steal: bool = False, history: str | int = "all", timeout_s: float | None = None
    ) -> Record:
        """Hold this session from now on; to be beaten for. `hold(id)` does both. Again, it changes nothing.

        Args:
            session_id: of the call.
            steal: also from a worker that is alive.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            ConflictError: another worker holds it, and is alive.
            SessionEndedError: it is over.
        """
        return await self._execute(requests.claim(session_id, self._claimant, history, steal=steal), timeout_s)

    async def _claim(
        self, session_id: str, *, steal: bool, heartbeat_timeout_s: float | None, max_duration_s: float | None
    ) -> Record:
        """The same with timeouts, for daemons that take them."""
        request = requests.claim(
            session_id,
            self._claimant,
            "all",
            steal=steal,
            heartbeat_timeout_s=heartbeat_timeout_s,
            max_duration_s=max_duration_s,
        )
        return await self._execute(request, None)

    async def claim_next(
        self, labels: Mapping[str, str] | None = None, history: str | int = "all", *, timeout_s: float | None = None
    ) -> Record | None:
        """Hold any session whose worker is gone; None where there is none. No two workers get the same.

        Args:
            labels: all of them must be there.
            history: `"all"`, `"none"`, or how many of the last turns.
        """
        return await self._execute(requests.claim_next(self._claimant, labels, history), timeout_s)

    async def release(self, session_id: str, epoch: int, *, timeout_s: float | None = None) -> None:
        """Hold this session no more: another worker may claim it at once, and has its full timeout to do so.

        Args:
            session_id: of the call.
            epoch: of the claim.

        Raises:
            FencedError: another has claimed it since.
        """
        await self._execute(requests.release(session_id, epoch), timeout_s)

    async def _give_up(self, session_id: str, epoch: int | None) -> None:
        """As `release`, of a session we made whose epoch could perhaps not be learned. By then it may be over."""
        with suppress(SessionEndedError, SessionNotFoundError, FencedError, MethodNotFoundError):
            if epoch is None:
                epoch = (await self.get(session_id, "none")).epoch
            await self.release(session_id, epoch)

    async def _release_unheld(self, session_id: str) -> None:
        """Release this session if it is ours and nobody here holds it: what an entry may have got unawares."""
        record = await self.get(session_id, "none")
        if record.owner == self._claimant and not self._holds(session_id):
            await self._give_up(session_id, record.epoch)

    def _holds(self, session_id: str) -> bool:
        held = self._handles.get(session_id)
        return held is not None and not (held.released or held.lost)

    async def _handle(self, record: Record, *, beat: BeatMode = "auto", epoch: int | None) -> CallHandle:
        """A handle on a session that this worker has created or claimed; beaten for from now on.

        Args:
            record: what is known of it.
            beat: see `hold()`.
            epoch: the session's; None: we made it, and could not learn it.

        Raises:
            ConflictError: it came to be held here meanwhile.
        """
        timeout_s = record.heartbeat_timeout_s
        if timeout_s is None:  # an older daemon, which does not say it of each session
            timeout_s = await self.default_heartbeat_timeout_s()
        held = self._handles.get(record.state.id)
        if held is not None and held.epoch == epoch:
            self._check_unheld(record.state.id, steal=True)
        elif held is not None and self._holds(held.id):
            held.lose(FencedError(f"{held.id} was claimed by another, and anew by this worker", epoch=epoch))
        handle = CallHandle(self, self._beater, record.state, record.version, epoch)
        handle.handovers = record.handovers
        self._handles[handle.id] = handle
        self._watch.start()
        if beat == "auto":
            handle.start_beats(timeout_s)
        return handle

    def _check_unheld(self, session_id: str, *, steal: bool) -> None:
        """See that this process does not hold this session: a second block would end it under the first one's feet.

        One that another store of the same worker id holds, in a loop that stands still, is there to be taken.

        Raises:
            ConflictError: it does.
        """
        others = [] if steal else [store for store in self._siblings() if not store._beater.stalled]
        if any(store._holds(session_id) for store in (self, *others)):
            text = f"{session_id} is held by this process already, by a block that has not been left"
            raise ConflictError(text, owner=self._claimant)

    async def _timeouts(
        self, heartbeat_timeout_s: float | None, max_duration_s: float | None
    ) -> tuple[float | None, float | None]:
        """Those that can be asked for with a claim: an older daemon takes none, and the call is beaten for by what
        it has in force.

        Raises:
            MethodNotFoundError: the call was to be limited, and can't be.
        """
        asked = not (heartbeat_timeout_s is None and max_duration_s is None)
        if not asked or protocol.CLAIM_TIMEOUTS in await self.features():
            return heartbeat_timeout_s, max_duration_s
        if max_duration_s is not None:
            raise MethodNotFoundError("this daemon is too old to take max_duration_s with a claim")
        return None, None

    async def _holds_no_more(self, session_id: str) -> bool:
        """Whether another has claimed this session since, which the block that holds it has not been told yet."""
        held = self._handles.get(session_id)
        return held is not None and (await self.get(session_id, "none")).epoch != held.epoch

    def _siblings(self) -> list[CallStore]:
        """Other stores of this process that are the same worker to what answers."""
        mine = self._place, self.worker_id
        stores = [known() for known in _stores.valuerefs()]
        return [
            store
            for store in stores
            if store is not None and store is not self and (store._place, store.worker_id) == mine
        ]

    @property
    def _place(self) -> object:
        """Where what answers is: the same for all stores that share their sessions."""
        return self

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
        """Calls whose workers are gone, claimed one by one: `await store.recover(handler, watch=True)`.

        `await handler(call)` runs in a task of its own for each, in the call's block: by the rules of `hold()` it
        ends when the handler returns, and is released when it raises, to be tried again after a pause that grows.
        Cancelled, it cancels the handlers, which releases their calls.

        Without a handler, `async for call in store.recover(): …` gives calls that are held already, each to be left
        as `async with call:`. It claims the next one when it is asked for that, so a body that waits for the call's
        end keeps all others waiting, which are reaped after their grace: start a task for each.

        A call that comes back, because whoever had it raised, or died, is held back for a while: from one second
        to half a minute, longer each time. Without `watch` none is given twice.

        Args:
            handler: what goes on with a call.
            labels: only those that have all of these.
            watch: go on for ever, waiting for more.
            concurrency: so many handlers run at once; what is beyond is left for other workers.
            max_attempts: a call whose handler raises, and which was claimed so often in a row by whatever worker,
                each time for less than a minute, is released and left alone from then on: another worker may take
                it, and the daemon ends it when none does. None: tried for ever.
            end_on: exceptions of the handler that mean the call is over, see `hold()`.
        """
        if not callable(handler):
            return Recovery(self, handler or labels, watch=watch).calls()
        recovery = Recovery(self, labels, watch=watch)
        return recovery.run(handler, concurrency, max_attempts, end_classes(end_on))

    # -- leaving --------------------------------------------------------------------------------------------

    async def leave(self, finish_s: float = FINISH_S) -> LeaveResult:
        """Leave without losing a call: take no more, let those that are held come to their end, release the rest.

        For the shutdown hook of a framework that sees to signals itself. `hold()`, `open_call()` and `recover()`
        take no more calls from now on; what is queued of each call is delivered. The store stays open.

        Args:
            finish_s: how long the calls may take, seconds. What is left then is released, for other workers to
                claim; the blocks find `call.lost`, and with `cancel_on_lost` are cancelled.
        """
        self._take_no_more()
        return await leave(self, finish_s, asyncio.Event())

    def graceful(
        self, finish_s: float = FINISH_S, signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT)
    ) -> Graceful:
        """A block that a signal asks to leave: `async with store.graceful() as leaving: await leaving.wait()`.

        At the first signal no more calls are taken; leaving the block waits for those that are held, as `leave()`
        does. A second signal has the rest released at once. In the main thread alone, as all handling of signals.

        Args:
            finish_s: how long the calls may take to end, seconds.
            signals: which.
        """
        return Graceful(self, finish_s, signals)

    def _take_no_more(self) -> None:
        self._leaving = True
        for events in self._recovering:
            events.close()

    # -- a host that drains ---------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether the host runs out of calls: new sessions are refused. Known from the registration, and at once
        while calls are held or somebody waits for it."""
        return self._draining

    async def wait_draining(self) -> None:
        """Return once the host drains, or at once if it does.

        Raises:
            StoreClosedError: the store is closed.
        """
        self._watch.start()
        while not self.draining:
            if self.closed:
                raise StoreClosedError
            self._drain_told.clear()
            await self._drain_told.wait()

    def _told_draining(self, drains: bool) -> None:
        self._draining = drains
        self._drain_told.set()

    async def drain(self, on: bool = True, *, timeout_s: float | None = None) -> DrainResult:
        """Let the host run out of calls: no new sessions are taken, those that are there go on.

        Args:
            on: False: take new ones again.

        Returns:
            whether it drains now, and how many sessions have not ended.
        """
        return await self._execute(requests.drain(on), timeout_s)
