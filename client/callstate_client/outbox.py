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
from typing import TYPE_CHECKING, Final

import msgspec

from callstate_client import protocol
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


class _Entry:
    """One mutation: a turn, still to be gathered, or a request of its own."""

    __slots__ = ("future", "method", "params", "size", "turn")

    def __init__(
        self, future: asyncio.Future[int], method: str, params: protocol.Mutation | None, turn: bytes = b""
    ) -> None:
        self.future = future
        self.method = method
        self.params = params
        self.turn = turn
        self.size = len(turn) or len(protocol.encode_json(params))


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
        self._store = store
        self._session_id = session_id
        self._acknowledged = acknowledged
        self._lost = lost
        self.epoch = epoch
        """A fencing token, for all that is sent from now on."""
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self._singly = 0
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
        """
        if self._closed:
            raise StoreClosedError(f"{self._session_id} is not held any more")
        if size > MAX_BYTES:
            raise TooLargeError(f"{size} bytes are more than the {MAX_BYTES} that one call may have under way")
        if len(self._entries) >= MAX_ENTRIES or self._bytes + size > MAX_BYTES:
            raise OverloadedError(
                f"{len(self._entries)} mutations of {self._session_id} are not acknowledged yet"
                + (f": {self._trouble}" if self._trouble else "")
            )

    def add_turn(self, turn: bytes) -> asyncio.Future[int]:
        """Queue a turn's JSON; `check_room` comes first. The future gives the version once acknowledged."""
        return self._put(_Entry(self._new_future(), "session.add_turn", None, turn))

    def put(self, method: str, params: protocol.Mutation) -> asyncio.Future[int]:
        """Queue another mutation, which has its `op`. Room is the caller's to check: an end always goes in."""
        return self._put(_Entry(self._new_future(), method, params))

    def _new_future(self) -> asyncio.Future[int]:
        if self._closed:
            raise StoreClosedError(f"{self._session_id} is not held any more")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_retrieve)
        return future

    def _put(self, entry: _Entry) -> asyncio.Future[int]:
        self._entries.append(entry)
        self._bytes += entry.size
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(
                self._deliver_all(), name=f"callstate-outbox-{self._session_id}"
            )
        return entry.future

    # -- delivering -----------------------------------------------------------------------------------------

    async def _deliver_all(self) -> None:
        while self._entries:
            count = self._gather()
            first = self._entries[0]
            params = first.params or protocol.AddTurnParams(
                session_id=self._session_id,
                turns=msgspec.Raw(b"[%b]" % b",".join(self._entries[i].turn for i in range(count))),
                op=self._store.new_op(),
            )
            try:
                version = await self._deliver(first.method, params)
            except (SessionEndedError, SessionNotFoundError, FencedError, StoreClosedError) as error:
                self._fail(len(self._entries), error)
                self._lost(error)
            except CallstateError as error:
                if count > 1 and isinstance(error, InvalidParamsError | TooLargeError):
                    self._singly = count  # nothing of it was taken: one bad turn must not take others with it
                else:
                    self._fail(count, error)
            else:
                self._acknowledged(version)
                for entry in self._take(count):
                    if not entry.future.done():
                        entry.future.set_result(version)

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

    async def _deliver(self, method: str, params: protocol.Mutation) -> int:
        """Ask until there is an answer that repeating would not change."""
        delay_s = FIRST_DELAY_S
        while True:
            params.epoch = self.epoch
            try:
                line = await self._store.request(method, params, op_of=self._session_id)
                version = protocol.decode_version(line).version
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
                return version
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    def _take(self, count: int) -> list[_Entry]:
        entries = [self._entries.popleft() for _ in range(count)]
        self._bytes -= sum(entry.size for entry in entries)
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
