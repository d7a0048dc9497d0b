"""Long work on the event loop, in slices of a bounded time, between which requests are served.

A number of items is no bound: what takes a microsecond each with short sessions takes a millisecond with long ones.
So the clock decides, after each item; what one item takes is the least that a slice can take.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Collection, Generator, Iterable
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")

SLICE_S: Final = 0.001
"""Seconds for which a slice holds up the loop: as long as a share of a request, see serving/connection.py."""

MANY: Final = 1000
"""A list of fewer objects is young or old without a difference that could be measured."""


class Slices:
    """Tells a piece of long work when to give way.

    Args:
        slice_s: how long a slice lasts, seconds; None: SLICE_S.
        clock: seconds.
    """

    def __init__(self, slice_s: float | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._slice_s = SLICE_S if slice_s is None else slice_s
        self._clock = clock
        self._until = clock() + self._slice_s

    @property
    def is_over(self) -> bool:
        """Whether the time of this slice is up."""
        return self._clock() >= self._until

    def begin(self) -> None:
        """A slice begins: after a wait for something else."""
        self._until = self._clock() + self._slice_s

    async def give_way(self) -> None:
        """If the time is up, serve what waits, and begin the next slice."""
        if self.is_over:
            await asyncio.sleep(0)
            self.begin()


async def in_slices(items: Iterable[T], slices: Slices | None = None) -> AsyncIterator[T]:
    """Iterate over items, giving way in between. They must not change meanwhile: pass a copy of what may."""
    slices = slices or Slices()
    for item in items:
        await slices.give_way()
        yield item


async def in_turns(steps: Generator[None, None, T], slice_s: float | None = None) -> T:
    """Do work that comes in steps, giving way in between; returns its result. `slice_s`: as of `Slices`."""
    slices = Slices(slice_s)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await slices.give_way()


def listed(items: Collection[T]) -> list[T]:
    """A list of what may be very many, which the garbage collector does not look at.

    A young list is looked at by each collection until it is old, and with it every object in it: with 100,000 ids
    that is 10 ms. The list goes when its last user does, by its count of references.
    """
    if len(items) <= MANY:
        return [*items]
    gc.collect(1)  # young garbage, of which there is little: frozen, it would stay for ever
    found = [*items]
    gc.freeze()  # all that is tracked now, for two pointers' cost: as old as if it had survived two collections
    return found
