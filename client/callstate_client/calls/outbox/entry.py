"""A mutation in the outbox of a call, and its outcome.

Every change of a call has an outcome that may be awaited, and most are awaited once or not at all. So an outcome is
no future: it makes one for each task that waits, and one for what is to be called back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from types import TracebackType
from typing import Any

import msgspec

from callstate_client import protocol
from callstate_client.calls.outbox.local_changes import Change, Patched
from callstate_client.errors import CallstateError
from callstate_client.model.members import encode_members
from callstate_client.model.merge import compose_patches

__all__ = ["Acknowledgement", "Action", "OutboxEntry"]

Action = Callable[[], Awaitable[int | None]]
"""Does what is not a single mutation with an `op`, such as a release. Returns the new version, if there is one."""


class Acknowledgement:
    """The outcome of a mutation: the session's version once it is acknowledged, or the error it was refused with.

    Cancelling a task that waits for it cancels nothing else, and an error that nobody asks for is not logged.

    Args:
        loop: of the call.
    """

    __slots__ = ("_future", "_loop", "_traceback", "_version", "_waiting", "refusal")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._version: int | None = None
        self.refusal: CallstateError | None = None
        """Why it was refused; None if it was not, or is not answered yet."""
        self._traceback: TracebackType | None = None  # of the refusal: raising it again must not lengthen it
        self._waiting: list[asyncio.Future[None]] | None = None  # of each task that waits
        self._future: asyncio.Future[int] | None = None  # if something is to be called back

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._version is not None or self.refusal is not None

    def result(self) -> int:
        """The version.

        Raises:
            CallstateError: it was refused.
            InvalidStateError: there is no outcome yet.
        """
        if self._version is not None:
            return self._version
        if self.refusal is None:
            raise asyncio.InvalidStateError("it is neither acknowledged nor refused yet")
        raise self.refusal.with_traceback(self._traceback)

    def __await__(self) -> Generator[Any, None, int]:
        if not self.done():
            waiter: asyncio.Future[None] = self._loop.create_future()
            if self._waiting is None:
                self._waiting = []
            self._waiting.append(waiter)
            try:
                yield from waiter
            finally:
                if self._waiting is not None:
                    self._waiting.remove(waiter)
        return self.result()

    @property
    def is_awaited(self) -> bool:
        """Whether a task waits for it."""
        return bool(self._waiting)

    def as_future(self) -> asyncio.Future[int]:
        """A future of the outcome, always the same, for callbacks: awaiting it may cancel it."""
        if self._future is None:
            self._future = self._loop.create_future()
            if self.done():
                self._tell(self._future)
        return self._future

    def acknowledge(self, version: int) -> None:
        """The daemon has acknowledged it."""
        if not self.done():
            self._version = version
            self._settled()

    def fail(self, error: CallstateError) -> None:
        """The daemon has refused it, or delivery was given up."""
        if not self.done():
            self.refusal, self._traceback = error, error.__traceback__
            self._settled()

    def _settled(self) -> None:
        waiting, self._waiting = self._waiting, None
        for waiter in waiting or ():
            if not waiter.done():  # its task was cancelled
                waiter.set_result(None)
        if self._future is not None:
            self._tell(self._future)

    def _tell(self, future: asyncio.Future[int]) -> None:
        if self.refusal is None:
            future.set_result(self.result())
        else:
            future.set_exception(self.refusal)
            future.exception()  # asyncio logs one that was never retrieved


class OutboxEntry(Acknowledgement):
    """One mutation: a turn, which others can join in one request, or a request of its own.

    Args:
        loop: the call's.
        method: the verb.
        params: of the verb's class; none for a turn, and for an action.
        turn: a turn's JSON.
        change: its change of the worker's own view.
        key: what is patched: patches of the same thing may be merged.
        action: done instead of a request.
    """

    __slots__ = (
        "action",
        "amends",
        "change",
        "follows",
        "index",
        "is_turn",
        "key",
        "method",
        "params",
        "size",
        "turn",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        method: str,
        params: protocol.Mutation | None = None,
        *,
        turn: bytes = b"",
        change: Change | None = None,
        key: Any = None,
        action: Action | None = None,
    ) -> None:
        super().__init__(loop)
        self.method = method
        self.params = params
        self.turn = turn
        self.is_turn = bool(turn)
        """Whether it can share a request with others."""
        self.change = change
        self.key = key
        self.action = action
        self.size = len(turn) or (len(protocol.encode_json(params)) if params is not None else 0)
        self.index: int | None = None
        """The index in the history of an acknowledged turn; None for all other entries."""
        self.amends: OutboxEntry | None = None
        """The entry of the turn that an amendment amends; None for all other entries."""
        self.follows: OutboxEntry | None = None
        """An entry that this one depends on: if it is refused, so is this one."""

    def absorb(self, later: OutboxEntry, most: int) -> bool:
        """Merge a later patch into this one; False if no single patch has the effect of the two.

        Args:
            later: the patch.
            most: the bytes that one patch may have.
        """
        mine, theirs = self.change, later.change
        if not isinstance(mine, Patched) or not isinstance(theirs, Patched):
            return False
        both = compose_patches(mine.patch, theirs.patch)
        if both is None or not isinstance(self.params, protocol.AmendTurnParams | protocol.UpdateParams):
            return False
        encoded = encode_members(both)
        if len(encoded) > most:
            return False
        mine.patch = both
        self.params.set = msgspec.Raw(encoded)
        self.size = len(protocol.encode_json(self.params))
        return True

    def undo(self) -> None:
        """Undo its change of the view."""
        if self.change is not None:
            self.change.undo()

    def redo(self) -> None:
        """Make its change of the view again."""
        if self.change is not None:
            with suppress(CallstateError):  # it depended on what was refused: the daemon will refuse it too
                self.change.make()
