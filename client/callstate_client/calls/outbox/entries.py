"""What waits in a call's outbox: one mutation each, or several that became one while they waited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from callstate_client import protocol
from callstate_client.calls.outbox.local_changes import Change, Patched
from callstate_client.errors import CallstateError
from callstate_client.model.merge import compose_patches
from callstate_client.model.turn import encode_members

Ask = Callable[[], Awaitable[int | None]]
"""Does what is no mutation with an `op`, a release say, or is made when its turn comes; gives the version."""

PATCHING: Final = frozenset({"session.amend_turn", "session.update"})
"""What changes one thing that the others of these don't touch, unless it is the very same thing."""


class Acknowledgement(asyncio.Future[int]):
    """Gets the version once a mutation is acknowledged. Nobody has to await it, nor see why it was not taken."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.waiters = 0
        """How many do await it."""
        self.add_done_callback(_retrieve)


def _retrieve(future: asyncio.Future[int]) -> None:
    """asyncio shall not complain that its exception was not seen."""
    if not future.cancelled():
        future.exception()


class Entry:
    """One mutation: a turn, still to be gathered, or a request of its own.

    Args:
        future: gets the version once it is acknowledged, or why it was not taken.
        method: the verb.
        params: of the verb's class; none for a turn, and for what `ask` does.
        turn: a turn's JSON.
        change: what it has changed in the worker's own view.
        key: what a patch is of; patches of the same may become one.
        ask: does it, in place of a request.
    """

    __slots__ = ("amends", "ask", "change", "follows", "future", "index", "key", "method", "params", "size", "turn")

    def __init__(
        self,
        future: Acknowledgement,
        method: str,
        params: protocol.Mutation | None = None,
        *,
        turn: bytes = b"",
        change: Change | None = None,
        key: Any = None,
        ask: Ask | None = None,
    ) -> None:
        self.future = future
        self.method = method
        self.params = params
        self.turn = turn
        self.change = change
        self.key = key
        self.ask = ask
        self.size = len(turn) or (len(protocol.encode_json(params)) if params is not None else 0)
        self.index: int | None = None
        """Of a turn: where in the history the store has put it, once it has."""
        self.amends: Entry | None = None
        """Of an amendment: the turn it is of, which goes before it."""
        self.follows: Entry | None = None
        """What has to be taken for this one to make sense."""

    @property
    def is_turn(self) -> bool:
        """Whether it can go in one request with others."""
        return bool(self.turn)

    @property
    def refusal(self) -> BaseException | None:
        """Why it was not taken; None while that is not known, and of what was."""
        return self.future.exception() if self.future.done() else None

    def absorb(self, later: Entry) -> bool:
        """Become both patches in one, unless no patch says what the two do one after the other."""
        mine, theirs = self.change, later.change
        if not isinstance(mine, Patched) or not isinstance(theirs, Patched):
            return False
        both = compose_patches(mine.patch, theirs.patch)
        if both is None or not isinstance(self.params, protocol.AmendTurnParams | protocol.UpdateParams):
            return False
        mine.patch = both
        self.params.set = msgspec.Raw(encode_members(both))
        self.size = len(protocol.encode_json(self.params))
        return True

    def undo(self) -> None:
        """Take back what it has changed in the worker's own view."""
        if self.change is not None:
            self.change.undo()

    def redo(self) -> None:
        """Make the change again."""
        if self.change is not None:
            with suppress(CallstateError):  # made no sense without what was refused; the daemon will say so too
                self.change.make()

    def done(self, version: int) -> None:
        """It is acknowledged."""
        if not self.future.done():
            self.future.set_result(version)

    def failed(self, error: CallstateError) -> None:
        """It was not taken, or nobody knows."""
        if not self.future.done():
            self.future.set_exception(error)
