"""What a call has to say, kept until the daemon has acknowledged it.

Media code never waits for a daemon that restarts: it queues, and one task a call delivers in order, one
request under way at a time, each with an `op`, so that a repeat happens once.

The task is an ordinary one: whoever cancels all tasks of a loop, as `asyncio.run` does at its end, cancels it too.
So nothing is the task's own: the request under way, its `op` with it, is the outbox's, and another task goes on
with it, from the next mutation that is put in, or from `resume()`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final

import msgspec

from callstate_client import protocol, requests
from callstate_client.calls.outbox.backlog import Backlog
from callstate_client.calls.outbox.entries import Acknowledgement, Ask, Entry
from callstate_client.calls.outbox.local_changes import Change, TurnAdded
from callstate_client.errors import (
    CallstateError,
    FencedError,
    InternalError,
    InvalidParamsError,
    NoDaemonError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
    TooLargeError,
    UndeliveredError,
    WireError,
)
from callstate_client.session_api import SessionApi
from callstate_client.transport.backoff import DELIVER, Backoff
from callstate_client.transport.loop_affinity import check_loop

_log = logging.getLogger("callstate")

MAKES_ROOM: Final = ("session.amend_turn", "session.update", "session.save")
"""After one of these a turn that had no room may have some."""

SETS_STATUS: Final = ("session.update", "session.save")
"""What an ended session refuses for the status that it sets; late turns are taken all the same."""

FATAL: Final = (SessionEndedError, SessionNotFoundError, FencedError, StoreClosedError)
"""After these nothing of the call is taken any more."""


class _Request:
    """The request under way, repeated as it is until there is an answer."""

    __slots__ = ("params", "reply", "unknown")

    def __init__(self, params: protocol.Mutation | None) -> None:
        self.params = params
        self.unknown = False
        """Whether it has left, and may have been taken for all we know."""
        self.reply: Awaitable[bytes] | None = None
        """What is waited for."""


class Outbox:
    """The queue of one call.

    Args:
        store: delivers.
        undelivered: has the outbox in it while it is not empty.
        session_id: of the call.
        acknowledged: called with the version after each request.
        lost: called when the session takes no more of anything.
        emptied: called when there is nothing left to deliver.
        epoch: the session's, which all is sent with.
    """

    def __init__(
        self,
        store: SessionApi,
        undelivered: set[Outbox],
        session_id: str,
        acknowledged: Callable[[int], None],
        lost: Callable[[CallstateError], None],
        emptied: Callable[[], None],
        epoch: int | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._undelivered = undelivered
        self._session_id = session_id
        self._acknowledged = acknowledged
        self._lost = lost
        self._emptied = emptied
        self.epoch = epoch
        """A fencing token, for all that is sent from now on."""
        self._backlog = Backlog()
        self._request: _Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._trouble: CallstateError | None = None
        self._refusal: CallstateError | None = None
        self._full: tuple[int, CallstateError] | None = None
        self._closed = False

    @property
    def full(self) -> CallstateError | None:
        """What the daemon said of a turn for which the session had no room, unless room was made since."""
        return None if self._full is None else self._full[1]

    def __len__(self) -> int:
        return len(self._backlog)

    # -- putting in -----------------------------------------------------------------------------------------

    def check_room(self, size: int) -> None:
        """See that an entry of so many bytes would be taken.

        Raises:
            StoreClosedError: the call is not held any more.
            TooLargeError: no outbox takes an entry of this size.
            OverloadedError: the outbox is full.
            RuntimeError: this is not the call's loop.
        """
        check_loop(self._loop, self._session_id)
        if self._closed:
            raise StoreClosedError(f"{self._session_id} is not held any more")
        self._backlog.check_room(size, f" of {self._session_id}" + (f": {self._trouble}" if self._trouble else ""))

    def add_turn(self, turn: bytes, change: TurnAdded) -> Entry:
        """Queue a turn's JSON; `check_room` comes first. The entry's future gives the version once acknowledged."""
        entry = Entry(self._new_future(), "session.add_turn", turn=turn, change=change, key=change.turn)
        if self._full is not None and self._has_no_room(entry):
            entry.failed(self._full[1])
            return entry
        return self._put(entry)

    def is_waiting(self, turn: Entry) -> bool:
        """Whether this turn is queued, and no request that may have reached the store has it."""
        return self._backlog.is_waiting(turn)

    def rewrite(self, turn: Entry, text: bytes) -> None:
        """Send other JSON for a turn that is waiting; `check_room` comes first."""
        self._backlog.rewrite(turn, text)

    def amend(self, turn: Entry, params: protocol.AmendTurnParams, change: Change, key: object) -> Entry:
        """Queue an amendment of a turn that was queued here before; as `put`."""
        entry = Entry(self._new_future(), "session.amend_turn", params, change=change, key=key)
        entry.amends = entry.follows = turn
        return self._put(entry)

    def put(
        self, method: str, params: protocol.Mutation, change: Change, key: object = None, follows: object = None
    ) -> Entry:
        """Queue another mutation, which has its `op`. Room is the caller's to check: an end always goes in.

        Args:
            method: the verb.
            params: of the verb's class.
            change: what it changes in the worker's own view.
            key: what a patch is of. One of the same that waits takes this one in, and gives the entry.
            follows: a turn; where that is queued and then refused, so is this.
        """
        entry = Entry(self._new_future(), method, params, change=change, key=key)
        if follows is not None:
            entry.follows = self._backlog.turn_of(follows)
        return self._put(entry)

    def put_ask(self, method: str, ask: Ask, change: Change | None = None) -> Entry:
        """Queue what is done by `ask` when its turn comes; also when nothing else is taken any more."""
        return self._put(Entry(self._new_future(always=True), method, ask=ask, change=change))

    def withdraw(self, entry: Entry) -> bool:
        """Don't do what waits yet; gives whether it did."""
        if not self._backlog.is_waiting(entry):
            return False
        self._backlog.withdraw(entry)
        return True

    def _new_future(self, *, always: bool = False) -> Acknowledgement:
        check_loop(self._loop, self._session_id)
        if self._closed and not always:
            raise StoreClosedError(f"{self._session_id} is not held any more")
        return Acknowledgement(loop=self._loop)

    def _put(self, entry: Entry) -> Entry:
        if self._refusal is not None and entry.method != "session.end":  # it is known, and was said
            entry.failed(self._refusal)
            return entry
        if entry.change is not None:
            entry.change.make()
        entry = self._backlog.put(entry)
        self._undelivered.add(self)
        self.resume()
        return entry

    # -- delivering -----------------------------------------------------------------------------------------

    def resume(self) -> asyncio.Task[None] | None:
        """The task that delivers, a new one if there is none any more; None for nothing to deliver."""
        if self._backlog and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._deliver_all(), name=f"callstate-outbox-{self._session_id}")
            self._task.add_done_callback(self._stopped)
        return self._task if self._backlog else None

    def _stopped(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and any(entry.future.waiters for entry in self._backlog):
            self.resume()  # by somebody who did not mean those that wait

    async def _deliver_all(self) -> None:
        while self._backlog:
            request = self._request = self._request or self._next()
            try:
                result = await self._deliver(self._backlog.first, request)
            except CallstateError as error:
                self._refused(error)
            except Exception as error:  # noqa: BLE001 - a fault of ours, which shall not hold up the rest for ever
                _log.exception("delivering for %s failed", self._session_id)
                self._refused(InternalError(f"{type(error).__name__}: {error}"))
            else:
                self._settle(result)
        self._undelivered.discard(self)
        self._emptied()

    def _next(self) -> _Request:
        first = self._backlog.first
        count = self._backlog.under_way = self._backlog.gather()
        if not first.is_turn:
            return _Request(first.params)
        turns = b",".join(entry.turn for entry in islice(self._backlog, count))
        params = protocol.AddTurnParams(
            session_id=self._session_id, turns=msgspec.Raw(b"[%b]" % turns), op=self._store.new_op()
        )
        return _Request(params)

    async def _deliver(self, first: Entry, request: _Request) -> protocol.VersionResult:
        """Ask until there is an answer that repeating would not change."""
        backoff = Backoff(DELIVER)
        while True:
            epoch = self.epoch
            try:
                result = await self._ask(first, request)
            except CallstateError as error:
                request.reply = None
                if isinstance(error, WireError):  # an answer, to a repeat too: it was not taken
                    request.unknown = False
                elif not isinstance(error, NoDaemonError):
                    request.unknown = True
                if isinstance(error, FencedError) and epoch != self.epoch:
                    continue  # claimed again by ourselves, while this was under way
                if not error.retryable:
                    raise
                if self._trouble is None:
                    _log.warning("%s of %s is kept for later: %s", first.method, self._session_id, error)
                self._trouble = error
            except asyncio.CancelledError:
                request.unknown = first.ask is not None or self._may_be_taken(request)
                request.reply = None
                raise
            else:
                self._trouble = None
                return result
            await asyncio.sleep(backoff.pause_s())

    async def _ask(self, first: Entry, request: _Request) -> protocol.VersionResult:
        request.reply = None
        refusal = None if first.follows is None else first.follows.future.exception()  # it was before this one
        if isinstance(refusal, CallstateError):
            raise refusal
        if first.ask is not None:
            return protocol.VersionResult(await first.ask() or 0)
        if self._full is not None and self._backlog.under_way == 1 and self._has_no_room(first):
            raise self._full[1]
        params = request.params
        assert params is not None  # noqa: S101 - all but an `ask` have them
        if first.amends is not None:
            await self._aim(first.amends, params)
        params.epoch = self.epoch
        request.reply = self._store.request(first.method, params, op_of=self._session_id)
        return protocol.decode_version(await request.reply)

    def _has_no_room(self, entry: Entry) -> bool:
        return self._full is not None and entry.is_turn and entry.size >= self._full[0]

    async def _aim(self, turn: Entry, params: protocol.Mutation) -> None:
        """Say which turn an amendment is of.

        Raises:
            MethodNotFoundError: this daemon amends the last turn alone.
        """
        assert isinstance(params, protocol.AmendTurnParams)  # noqa: S101 - put in by `amend`
        # asked for now: the daemon that was there when it was queued may have been replaced by an older one
        features = await self._store.features() if turn.index is not None else ()
        requests.check_amendable(turn.index, params.role, features)
        params.index = turn.index

    # -- outcomes -------------------------------------------------------------------------------------------

    def _settle(self, result: protocol.VersionResult) -> None:
        if result.version:
            self._acknowledged(result.version)
        if self._backlog.first.method in MAKES_ROOM:
            self._full = None
        count, self._request = self._backlog.under_way, None
        for offset, entry in enumerate(self._backlog.take(count)):
            if result.turn_count is not None:
                entry.index = result.turn_count - count + offset
            entry.done(result.version)

    def _refused(self, error: CallstateError) -> None:
        count, self._request = self._backlog.under_way, None
        if count > 1 and isinstance(error, InvalidParamsError | TooLargeError):
            self._backlog.go_singly()  # nothing of it was taken: one bad turn must not take others with it
            return
        of_status = isinstance(error, SessionEndedError) and self._backlog.first.method in SETS_STATUS
        fatal = isinstance(error, FATAL) and not of_status
        if fatal:
            count, self._refusal = len(self._backlog), error
        failed = self._backlog.take_back(count)
        is_full = isinstance(error, TooLargeError) and failed[0].is_turn
        if not (is_full and self._full):  # which was said
            _log.warning("%d mutations of %s were not taken: %s", count, self._session_id, error)
        if is_full:
            self._full = (min(failed[0].size, self._full[0] if self._full else failed[0].size), error)
        for entry in failed:
            entry.failed(error)
        if fatal:
            self._lost(error)

    # -- leaving --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take nothing more. What is there is delivered all the same."""
        self._closed = True

    def abandon(self) -> None:
        """In a forked child: what is queued is the parent's to deliver, and its tasks are not here."""
        self._closed = True
        self._task = self._request = None
        self._backlog.take(len(self._backlog))

    def _may_be_taken(self, request: _Request) -> bool:
        return request.unknown or (request.reply is not None and self._store._may_have_left(request.reply))

    def what_is_left(self, *, going_on: bool) -> UndeliveredError | None:
        """What is not acknowledged, logged, and for whoever leaves; None for nothing that could be lost."""
        request = self._request
        sent = self._backlog.under_way if request is not None and self._may_be_taken(request) else 0
        left = [entry.method != "session.release" for entry in self._backlog]
        unknown, unsent = sum(left[:sent]), sum(left[sent:])
        if not unknown + unsent:
            return None
        parts = [f"{unknown} sent and not answered, outcome unknown"] if unknown else []
        parts += [f"{unsent} never sent"] if unsent else []
        why = f" ({self._trouble})" if self._trouble else ""
        after = "; delivery goes on while the store is open" if going_on else ""
        error = UndeliveredError(
            f"mutations of {self._session_id} not acknowledged: {', '.join(parts)}{why}{after}",
            {self._session_id: unsent} if unsent else {},
            {self._session_id: unknown} if unknown else {},
            going_on=going_on,
        )
        error.__cause__ = self._trouble
        _log.warning("%s", error)
        return error

    def give_up(self) -> UndeliveredError | None:
        """Deliver no more; gives what was left."""
        error = self.what_is_left(going_on=False)
        self._request = None
        if self._task is not None:
            self._task.cancel()
        self.close()
        for entry in self._backlog.take(len(self._backlog)):
            entry.failed(error or UndeliveredError())
        self._undelivered.discard(self)
        self._emptied()
        return error
