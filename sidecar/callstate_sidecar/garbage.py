"""Garbage collection in short pauses, however many sessions there are, that leaves no garbage for good.

Nearly everything here goes with the last reference to it. A collection is for cycles, such as an error and the
frame that it was raised in. Python collects young objects often, which is short, and everything once the objects
that outlived two collections have grown by a quarter: with 100,000 sessions that takes 30 ms. So here everything is
collected after every few collections of young objects, and where many survive that, they are set aside by
`gc.freeze`: later collections don't look at them, and each has only what has come since.

Most of what is set aside are sessions, which still go with the last reference to them. What would stay is a cycle
that was in use when it was set aside: of the requests and errors of one moment, each time SET_ASIDE objects are.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

YOUNG: Final = 500
"""New objects after which young ones are collected. With what they refer to that is half a millisecond, where 2,500
took up to three."""

NEVER: Final = 1_000_000
"""Collections of young objects after which Python would collect all by itself: `Collector` does it."""

ROUNDS: Final = 3
"""After this many collections of objects that outlived one, everything is collected."""

SET_ASIDE: Final = 2_000
"""So many survivors are set aside. With what came in ROUNDS they are some 6,000 objects, at which a collection
looks in one or two milliseconds."""


class Collector:
    """Collects all garbage of a process now and then, in turns of an event loop of their own.

    Args:
        loop: the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._rounds = 0

    def __call__(self, phase: str, info: Mapping[str, int]) -> None:
        """gc.callbacks: a collection starts or stops, in any thread."""
        if phase != "stop" or info["generation"] != 1:
            return
        self._rounds += 1
        if self._rounds == ROUNDS:
            self._loop.call_soon_threadsafe(self.collect)

    def collect(self) -> None:
        """Collect all that is not set aside, and set aside what is left if that is much."""
        gc.collect()
        self._rounds = 0
        if len(gc.get_objects(generation=2)) > SET_ASIDE:
            gc.freeze()


@contextmanager
def collecting() -> Iterator[None]:
    """Collect garbage for the running loop while the block lasts; objects that exist already are set aside."""
    collector = Collector(asyncio.get_running_loop())
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG, 1, NEVER)
    gc.callbacks.append(collector)
    gc.enable()
    try:
        yield
    finally:
        gc.callbacks.remove(collector)
        gc.set_threshold(*before)
        gc.unfreeze()
