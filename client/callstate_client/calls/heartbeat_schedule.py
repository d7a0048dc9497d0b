"""When a held call's next heartbeat is due."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Final
from weakref import WeakMethod

from callstate_client.errors import CallstateError

__all__ = ["EARLY", "Beat", "LostCallback"]

BEATS_A_TIMEOUT: Final = 3
"""So many beats fall into one heartbeat timeout: two may be lost or late before a live call is suspected."""

EARLY: Final = 1 / 8
"""A beat may leave this part of its interval early, to go in one message with another: calls that started
at different times soon beat together."""

LostCallback = Callable[[CallstateError], None]


class Beat:
    """When a call's next heartbeat is due. Does not keep its holder: nobody beats for a call that nobody has.

    Args:
        timeout_s: the call's heartbeat timeout, seconds.
        at: now, seconds of the beater's clock.
        lost: whom to tell when the call takes no more beats; a method is known by its object as long as that lives.
    """

    __slots__ = ("_lost", "due", "interval_s")

    def __init__(self, timeout_s: float, at: float, lost: LostCallback) -> None:
        self.interval_s = timeout_s / BEATS_A_TIMEOUT
        self.due = at + self.interval_s
        self._lost: Callable[[], Any] = WeakMethod(lost) if isinstance(lost, MethodType) else lambda: lost

    def is_of(self, lost: LostCallback | None) -> bool:
        """Whether it was added with this callback; None: with one that is gone."""
        return bool(self._lost() == lost)

    def retime(self, timeout_s: float, at: float) -> None:
        """The call has another timeout now."""
        self.interval_s = timeout_s / BEATS_A_TIMEOUT
        self.due = min(self.due, at + self.interval_s)

    def tell(self, error: CallstateError) -> None:
        """The call takes no more beats."""
        lost = self._lost()
        if lost is not None:
            lost(error)
