"""Long work on the event loop, in slices of a bounded time, between which requests are served.

A number of items is no bound: what takes a microsecond each with short sessions takes a millisecond with long ones.
So the clock decides, after each item; what one item takes is the least that a slice can take.

A request that arrives in a slice waits for its end, so slices are short. But while requests take most of the loop's
time, short slices between them would be too little for the work to keep up: then they are longer, so that the work
has a quarter of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")

SLICE_S: Final = 0.0003
"""Seconds for which a slice holds up the loop: about as long as a request that changes a session."""

LONGER: Final = 3
"""How many times as long a slice may be while the loop is busy with other things."""

OTHERS_SHARE: Final = 3
"""How many times as long as a slice the others may take before slices get longer."""


class Slices:
    """Tells a piece of long work when to give way.

    Args:
        slice_s: how long a slice lasts, seconds, while the loop has little else to do; None: SLICE_S.
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
        """Begin a slice, after a wait for something else."""
        self._until = self._clock() + self._slice_s

    async def pause(self) -> None:
        """Serve what waits, and begin the next slice.

        It takes two turns of the loop: in one, requests arrive; in the next, what they have started continues, such
        as a commit or a reader.
        """
        ended = self._clock()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        began = self._clock()
        wanted_s = (began - ended) / OTHERS_SHARE
        self._until = began + min(max(wanted_s, self._slice_s), self._slice_s * LONGER)

    async def give_way(self) -> None:
        """If the time is up, serve what waits, and begin the next slice."""
        if self.is_over:
            await self.pause()


async def in_slices(items: Iterable[T], slices: Slices | None = None) -> AsyncIterator[T]:
    """Iterate over items, giving way in between. Pass a copy of what may change, or an iterator that bears it.

    A copy of very many strings should be a tuple: the garbage collector looks at 100,000 ids once, which takes
    2 ms, and no more from then on. A list of them it looks at whenever it collects everything.
    """
    slices = slices or Slices()
    for item in items:
        await slices.give_way()
        yield item


async def in_turns(steps: Generator[None, None, T], slice_s: float | None = None) -> T:
    """Do work that comes in steps, giving way in between; returns its result. `slice_s`: see `Slices`."""
    slices = Slices(slice_s)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await slices.give_way()
