"""What a held call's methods return: a queued mutation, and a turn that can still be amended.

Both are awaitables of their own, not futures: awaiting one is optional, and cancelling the wait cancels neither the
mutation nor its delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from callstate_client.calls.outbox.entry import OutboxEntry
from callstate_client.model.turn import Turn
from callstate_client.uncopied import Uncopied

__all__ = ["AmendableTurn", "Queued", "QueuedMutation", "TurnHandle"]


class Queued(Uncopied):
    """A mutation of a held call. Awaiting it returns the session's version once it is acknowledged, or raises the
    error that it was refused with. It need not be awaited, and is delivered even if the wait is cancelled.
    """

    __slots__ = ("place",)

    instead = "await it where it was made"

    def __init__(self, place: OutboxEntry) -> None:
        self.place = place
        """Its entry in the outbox. Internal."""

    def __await__(self) -> Generator[Any, None, int]:
        return self.place.__await__()

    def done(self) -> bool:
        """Whether it is acknowledged or refused."""
        return self.place.done()

    def result(self) -> int:
        """The version. Raises the error it was refused with, or InvalidStateError while there is no outcome."""
        return self.place.result()

    def exception(self) -> BaseException | None:
        """The error that it was refused with; None if it is acknowledged. Without an outcome as `result()`."""
        if not self.place.done():
            self.place.result()
        return self.place.refusal

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call this, with an object that has `result()` and `exception()`, once there is an outcome."""
        self.place.as_future().add_done_callback(callback)

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        """Remove a callback. Returns how often it had been added."""
        return self.place.as_future().remove_done_callback(callback)


class Amender(Protocol):
    """A call whose turns can be amended."""

    def amend(
        self,
        turn: TurnHandle,
        content: str | None,
        duration_ms: int | None,
        extra: dict[str, Any] | None,
    ) -> QueuedMutation:
        """Queue an amendment of just this turn."""
        ...


class TurnHandle(Queued):
    """A turn of a held call, as `call.add_turn()` returns it; awaitable like any queued mutation.

    `amend()` changes exactly this turn, whatever has been added since: the reply to the turn has its index in the
    history, and the amendment is sent with it.
    """

    __slots__ = ("_amender", "turn")

    def __init__(self, amender: Amender, turn: Turn, place: OutboxEntry) -> None:
        super().__init__(place)
        self._amender = amender
        self.turn = turn
        """The turn, as this worker sees it. Read-only: changes to it are not sent."""

    def __repr__(self) -> str:
        return f"TurnHandle({self.turn!r}, {'done' if self.done() else 'queued'})"

    def amend(
        self, *, content: str | None = None, duration_ms: int | None = None, extra: dict[str, Any] | None = None
    ) -> QueuedMutation:
        """Change this turn, for example to what was heard of it before a barge-in, or to the result of a tool.

        Args:
            content: what was said; None leaves it.
            duration_ms: how long it took, milliseconds; None leaves it. Speech time is not counted again.
            extra: members to add or replace; None as a value removes one.

        Raises:
            MethodNotFoundError: the daemon is too old to amend any turn but the last.
            StoreClosedError: the call is no longer held.
        """
        return self._amender.amend(self, content, duration_ms, extra)


# mypy's `unused-awaitable` reports every awaitable whose expression stands alone, as `call.add_turn(...)` is meant
# to. It does not report unions, unless one member is a subclass of another.
if TYPE_CHECKING:

    class _Queued(Queued): ...

    class _OrQueued(Queued): ...

    class _Turn(TurnHandle): ...

    class _OrTurn(TurnHandle): ...

    QueuedMutation: TypeAlias = _Queued | _OrQueued
    AmendableTurn: TypeAlias = _Turn | _OrTurn
else:
    QueuedMutation = Queued
    AmendableTurn = TurnHandle


def queued(place: OutboxEntry) -> QueuedMutation:
    """A mutation that is queued."""
    return cast("QueuedMutation", Queued(place))


def amendable(amender: Amender, turn: Turn, place: OutboxEntry) -> AmendableTurn:
    """A turn that is queued."""
    return cast("AmendableTurn", TurnHandle(amender, turn, place))
