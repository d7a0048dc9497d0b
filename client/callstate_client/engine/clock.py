"""What the engine asks of a clock. It has none of its own: the daemon's runs, a MemoryStore's is moved by tests."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall time for what is written down, monotonic time for intervals, and the time that deadlines go by."""

    stalled_s: float
    """Seconds for which the process was stopped, stalled or asleep: what `live()` leaves out."""

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        ...

    def mono(self) -> float:
        """Seconds, steady."""
        ...

    def live(self) -> float:
        """Seconds, steady, standing still while the process does: nobody is blamed for silence that was ours."""
        ...
