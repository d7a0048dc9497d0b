"""What a call has to say, kept until the daemon has acknowledged it.

Media code never waits for a daemon that restarts: it queues, and one task a call delivers in order, one
request under way at a time, each with an `op`, so that a repeat happens once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from callstate_client import asks, protocol
from callstate_client.errors import (
    CallstateError,
    FencedError,
    InvalidParamsError,
    OverloadedError,
    RequestTimeoutError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
    TooLargeError,
)
from callstate_client.loops import check_loop

if TYPE_CHECKING:
    from callstate_client.api import CallStore

_log = logging.getLogger("callstate")

MAX_ENTRIES: Final = 1000
"""Unacknowledged mutations of one call: more than half an hour of talk at a turn every two seconds, which no
restart takes. Beyond it something is broken, and the caller is told."""

MAX_BYTES: Final = 1024 * 1024
"""Their turns' JSON, bytes, together: a thousand calls of a worker can't take more than a gigabyte."""

GATHER_BYTES: Final = 256 * 1024
"""Turns of one request, bytes: well below a request line's limit, envelope included."""

FIRST_DELAY_S: Final = 0.05
MAX_DELAY_S: Final = 2.0
"""Backoff, seconds. Waiting for the connection is the link's; this is for a daemon that answers with an error."""


class Entry:
    """One mutation: a turn, still to be gathered, or a request of its own."""

    __slots__ = ("amends", "future", "index", "method", "params", "size", "turn")

    def __init__(
        self, future: asyncio.Future[int], method: str, params: protocol.Mutation | None, turn: bytes = b""
    ) -> None:
        self.future = future
        self.method = method
        self.params = params
        self.turn = turn
        self.size = len(turn) or len(protocol.encode_json(params))
        self.index: int | None = None
        """Of a turn: where in the history the store has put it, once it has."""
        self.amends: Entry | None = None
        """Of an amendment: the turn it is of, which goes before it."""


def _retrieve(future: asyncio.Future[int]) -> None:
    """Nobody has to await an acknowledgement: asyncio shall not complain that its exception was not seen."""
    if not future.cancelled():
        future.exception()


class Outbox:
    """The queue of one call.

    Args:
        store: delivers.
        session_id: of the call.
        acknowledged: called with the version after each request.
        lost: called when the session takes no more of anything.
        epoch: the session's, which all is sent with.
    """

    def __init__(
        self,
        store: CallStore,
        session_id: str,
        acknowledged: Callable[[int], None],
        lost: Callable[[CallstateError], None],
        epoch: int | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._session_id = session_id
        self._acknowledged = acknowledged
        self._lost = lost
        self.epoch = epoch
        """A fencing token, for all that is sent from now on."""
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._singly = 0
        self._under_way = 0
        self._task: asyncio.Task[None] | None = None
        self._trouble: CallstateError | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

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
        if size > MAX_BYTES:
            raise TooLargeError(f"{size} bytes are more than the {MAX_BYTES} that one call may have under way")
        if len(self._entries) >= MAX_ENTRIES or self._bytes + size > MAX_BYTES:
            raise OverloadedError(
                f"{len(self._entries)} mutations of {self._session_id} are not acknowledged yet"
                + (f": {self._trouble}" if self._trouble else "")
            )

    def add_turn(self, turn: bytes) -> Entry:
        """Queue a turn's JSON; `check_room` comes first. The entry's future gives the version once acknowledged."""
        entry = Entry(self._new_future(), "session.add_turn", None, turn)
        self._put(entry)
        return entry

    def is_waiting(self, turn: Entry) -> bool:
        """Whether this turn is queued, and no request that may have reached the store has it."""
        return not turn.future.done() and not any(entry is turn for entry in islice(self._entries, self._under_way))

    def rewrite(self, turn: Entry, text: bytes) -> None:
        """Send other JSON for a turn that is waiting; `check_room` comes first."""
        self._bytes += len(text) - turn.size
        turn.turn, turn.size = text, len(text)

    def amend(self, turn: Entry, params: protocol.AmendTurnParams) -> asyncio.Future[int]:
        """Queue an amendment of a turn that was queued here before; `check_room` comes first."""
        entry = Entry(self._new_future(), "session.amend_turn", params)
        entry.amends = turn
        return self._put(entry)

    def put(self, method: str, params: protocol.Mutation) -> asyncio.Future[int]:
        """Queue another mutation, which has its `op`. Room is the caller's to check: an end always goes in."""
        return self._put(Entry(self._new_future(), method, params))

    def _new_future(self) -> asyncio.Future[int]:
        check_loop(self._loop, self._session_id)
        if self._closed:
            raise StoreClosedError(f"{self._session_id} is not held any more")
        future: asyncio.Future[int] = self._loop.create_future()
        future.add_done_callback(_retrieve)
        return future

    def _put(self, entry: Entry) -> asyncio.Future[int]:
        self._entries.append(entry)
        self._bytes += entry.size
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._deliver_all(), name=f"callstate-outbox-{self._session_id}")
        return entry.future

    # -- delivering -----------------------------------------------------------------------------------------

    async def _deliver_all(self) -> None:
        while self._entries:
            count = self._under_way = self._gather()
            first = self._entries[0]
            params = first.params or protocol.AddTurnParams(
                session_id=self._session_id,
                turns=msgspec.Raw(b"[%b]" % b",".join(self._entries[i].turn for i in range(count))),
                op=self._store.new_op(),
            )
            try:
                result = await self._deliver(first, params)
            except (SessionEndedError, SessionNotFoundError, FencedError, StoreClosedError) as error:
                self._fail(len(self._entries), error)
                self._lost(error)
            except CallstateError as error:
                if count > 1 and isinstance(error, InvalidParamsError | TooLargeError):
                    self._singly = count  # nothing of it was taken: one bad turn must not take others with it
                else:
                    self._fail(count, error)
            else:
                self._acknowledged(result.version)
                for offset, entry in enumerate(self._take(count)):
                    if result.turn_count is not None:
                        entry.index = result.turn_count - count + offset
                    if not entry.future.done():
                        entry.future.set_result(result.version)

    def _gather(self) -> int:
        """How many entries go into the next request: turns in a row, up to a size."""
        if self._entries[0].params is not None or self._singly:
            self._singly = max(0, self._singly - 1)
            return 1
        count = size = 0
        for entry in self._entries:
            size += entry.size
            if entry.params is not None or (count and size > GATHER_BYTES):
                break
            count += 1
        return count

    async def _aim(self, turn: Entry, params: protocol.Mutation) -> None:
        """Say which turn an amendment is of.

        Raises:
            MethodNotFoundError: this daemon amends the last turn alone.
            CallstateError: what kept the turn itself from being taken.
        """
        assert isinstance(params, protocol.AmendTurnParams)  # noqa: S101 - put in by `amend`
        refusal = turn.future.exception()  # it was delivered before, or refused
        if isinstance(refusal, CallstateError):
            raise refusal
        # asked for now: the daemon that was there when it was queued may have been replaced by an older one
        features = await self._store.features() if turn.index is not None else ()
        asks.check_amendable(turn.index, params.role, features)
        params.index = turn.index

    async def _deliver(self, first: Entry, params: protocol.Mutation) -> protocol.VersionResult:
        """Ask until there is an answer that repeating would not change."""
        method = first.method
        delay_s = FIRST_DELAY_S
        while True:
            params.epoch = self.epoch
            try:
                if first.amends is not None:
                    await self._aim(first.amends, params)
                line = await self._store.request(method, params, op_of=self._session_id)
                result = protocol.decode_version(line)
            except CallstateError as error:
                if isinstance(error, FencedError) and params.epoch != self.epoch:
                    continue  # claimed again by ourselves, while this was under way
                if not error.retryable:
                    raise
                if self._trouble is None:
                    _log.warning("%s of %s is kept for later: %s", method, self._session_id, error)
                self._trouble = error
            else:
                self._trouble = None
                return result
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    def _take(self, count: int) -> list[Entry]:
        entries = [self._entries.popleft() for _ in range(count)]
        self._bytes -= sum(entry.size for entry in entries)
        self._under_way = 0
        return entries

    def _fail(self, count: int, error: CallstateError) -> None:
        entries = self._take(count)
        _log.warning("%d mutations of %s were not taken: %s", count, self._session_id, error)
        for entry in entries:
            if not entry.future.done():
                entry.future.set_exception(error)

    def abandon(self) -> None:
        """In a forked child: what is queued is the parent's to deliver, and its tasks are not here."""
        self._closed = True
        self._task = None
        self._entries.clear()

    # -- leaving --------------------------------------------------------------------------------------------

    async def close(self, timeout_s: float) -> None:
        """Take nothing more, and deliver what is there.

        Args:
            timeout_s: how long to try, seconds.

        Raises:
            CallstateError: what still kept the rest from being acknowledged then.
        """
        self._closed = True
        if self._task is None:
            return
        try:
            await asyncio.wait({self._task}, timeout=timeout_s)
        finally:
            self._task.cancel()  # done already, or out of time, or the waiting was cancelled
            if self._entries:
                error = self._trouble or RequestTimeoutError(f"no acknowledgement within {timeout_s} s")
                self._fail(len(self._entries), error)
        if self._trouble is not None:
            raise self._trouble
