"""The bytes of memory that the engine's state takes, kept in one number.

Whoever keeps something that grows with what clients send adds its size here and subtracts it when it goes: the
table for its sessions, tombstones and copies set aside, the events for those kept for subscribers, write-behind for
writes that wait for a part of the store. The sizes are those of weight.py, estimated from measurements.
"""

from __future__ import annotations


class HotBytes:
    """The sum."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0
        """Bytes."""
