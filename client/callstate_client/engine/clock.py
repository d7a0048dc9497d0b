"""The clock that a front gives the engine, which has none of its own: the daemon's runs, tests move a
MemoryStore's."""

from __future__ import annotations

from typing import Protocol


class EngineClock(Protocol):
    """Wall time for what is stored, monotonic time for intervals, and the time that deadlines go by."""

    stalled_s: float
    """Seconds for which the process was stopped, stalled or suspended: `live()` leaves them out."""

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        ...

    def mono(self) -> float:
        """Seconds, monotonic."""
        ...

    def live(self) -> float:
        """Seconds, monotonic, but standing still while the process does: silence then is nobody's fault. May step
        back once, by the length of a stall, when that is noticed."""
        ...
