"""The clock that is passed to the engine, which has none of its own: the daemon's is real, a MemoryStore's can be
moved by tests."""

from __future__ import annotations

from typing import Protocol


class EngineClock(Protocol):
    """Wall time for what is stored, monotonic time for intervals, and the time by which deadlines are measured."""

    stalled_s: float
    """Seconds for which the process was stopped, stalled or suspended: `live()` leaves them out."""

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        ...

    def mono(self) -> float:
        """Seconds, monotonic."""
        ...

    def live(self) -> float:
        """Seconds, monotonic, but standing still while the process does, so that its own stalls don't count as a
        caller's silence. May step back once, by the length of a stall, when that is noticed."""
        ...
