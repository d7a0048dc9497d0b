"""What `callstate top` asks a daemon for, and how often: as little as the view needs.

At each interval one ping, one `server.stats`, one page of the list of calls, and the calls on the screen that are
not fresh; between the pages events tell what has changed. So the daemon has a few milliseconds of work at each
interval, however many calls it holds: a list of many pages is just older.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from callstate_client.api import CallStore
from callstate_client.cli.top.figures import Figures
from callstate_client.cli.top.sessions import ENDED, LIVE, NOT_ENDED, Calls
from callstate_client.errors import CallstateError, SessionNotFoundError
from callstate_client.store import Record

PAGE: Final = 300
"""Calls listed at each interval: what a daemon puts on one page, and takes two to three milliseconds for."""

MAX_FRESH: Final = 50
"""The most calls on the screen that are asked for one by one at each interval."""

FIRST_PAUSE_S: Final = 0.1
"""Pause between the pages of a list that nobody has seen whole yet, seconds: 10,000 calls in four seconds."""

ANSWER_WITHIN_S: Final = 2.0
"""After this time without an answer the view says that there is none, seconds."""


class Feed:
    """Keeps figures and calls up to date.

    Args:
        store: connected to the daemon; it connects again by itself.
        interval_s: seconds between two looks.
        clock: monotonic seconds.
        changed: called after each change of what is known.
    """

    def __init__(
        self, store: CallStore, interval_s: float, clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self.store = store
        self.figures = Figures()
        self.calls = Calls()
        self.info: dict[str, Any] = {}
        """The result of `server.info`; empty until the daemon has answered."""
        self.problem = ""
        """Why there is no answer; empty while there is."""
        self.answered_at_s = 0.0
        """When the daemon last answered, monotonic seconds."""
        self.states: Sequence[str] = NOT_ENDED
        """The states of the calls that are wanted."""
        self.shown: Sequence[str] = ()
        """The ids of the calls on the screen."""
        self._interval_s = interval_s
        self._clock = clock
        self._changed = changed
        self._scan: AsyncIterator[tuple[Record, str | None]] | None = None
        self._scanned: Sequence[str] = ()
        self._is_whole = False
        """Whether the list has been read to its end since other calls were wanted."""

    # -- the daemon's figures, and its calls ------------------------------------------------------------------

    async def run(self) -> None:
        """Look at each interval, until cancelled."""
        while True:
            began_s = self._clock()
            try:
                await self.look()
                self._changed()
                await self._hurry(began_s + self._interval_s)
            except CallstateError as error:
                self._no_answer(error)
                self._changed()
            await asyncio.sleep(max(0.0, began_s + self._interval_s - self._clock()))

    async def look(self) -> None:
        """Ask for everything once.

        Raises:
            CallstateError: the daemon did not answer, or refused.
        """
        began_s = self._clock()
        await self.store.ping(timeout_s=ANSWER_WITHIN_S)
        at_s = self._clock()
        if self.problem or not self.info:
            await self._connected()
        self.figures.observe(await self.store.stats(timeout_s=ANSWER_WITHIN_S), at_s, at_s - began_s)
        self.answered_at_s, self.problem = self._clock(), ""
        await self._list_some()
        await self._refresh_shown()

    async def _connected(self) -> None:
        """A daemon answers for the first time, or again: maybe another one than before."""
        info = await self.store.info(timeout_s=ANSWER_WITHIN_S)
        if self.info and info.get("started_at") != self.info.get("started_at"):
            self.calls.clear()
            self._is_whole = False
        self.info = info
        self.rescan()

    def _no_answer(self, error: CallstateError) -> None:
        self.problem = str(error) or type(error).__name__
        self.figures.interrupted()
        self.rescan()

    # -- the list ---------------------------------------------------------------------------------------------

    def want(self, states: Sequence[str]) -> None:
        """List calls in these states from now on."""
        self.states, self._is_whole = states, False
        self.rescan()

    def rescan(self) -> None:
        """Begin the list anew: other states are wanted, or something was missed."""
        self._scan = None

    async def _list_some(self) -> None:
        """The next page of the list; after its last one the list begins anew, at the next interval.

        While a record is awaited, an event or a key may ask for a new list: then this one is left as it is.
        """
        if self._scan is None:
            self.calls.begin_scan(self._clock())
            self._scanned = self.states
            self._scan = self._listing(self.states)
        scan = self._scan
        for _ in range(PAGE):
            found = await anext(scan, None)
            if self._scan is not scan:
                return
            if found is None:
                self.calls.end_scan(self._scanned)
                self._scan, self._is_whole = None, True
                return
            record, state = found
            self.calls.listed(record, self._clock(), state)

    async def _hurry(self, until_s: float) -> None:
        """Read on until this time, while the list has not been read to its end."""
        while not self._is_whole and self._clock() + FIRST_PAUSE_S < until_s:
            await asyncio.sleep(FIRST_PAUSE_S)
            await self._list_some()
            self._changed()

    async def _listing(self, states: Sequence[str]) -> AsyncIterator[tuple[Record, str | None]]:
        """The calls in these states. Those without a call in them are not asked for."""
        if ENDED in states and len(states) > 1:
            async for record in self.store.sessions():
                yield record, record.liveness or LIVE
            return
        counted = {"suspect": "suspects", "orphan": "orphans"}
        for state in states:
            if state in counted and not self.figures.count(counted[state]):
                continue
            ended = state == ENDED
            async for record in self.store.sessions(
                status=ENDED if ended else None, state=None if ended else state
            ):
                yield record, state

    async def _refresh_shown(self) -> None:
        """Ask for the calls on the screen that the page of this time did not have."""
        now_s = self._clock()
        calls = (self.calls.calls.get(session_id) for session_id in self.shown)
        old = [call.id for call in calls if call is not None and now_s - call.read_at_s > self._interval_s]
        if old:
            await asyncio.gather(*(self._refresh(session_id) for session_id in old[:MAX_FRESH]))

    async def _refresh(self, session_id: str) -> None:
        try:
            record = await self.store.get(session_id, history="none", timeout_s=ANSWER_WITHIN_S)
        except SessionNotFoundError:
            self.calls.drop(session_id)
        else:
            self.calls.listed(record, self._clock())

    # -- events -----------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Take events, until cancelled."""
        async with self.store.events() as events:
            async for event in events:
                if self.calls.apply(event, self._clock()):
                    self.rescan()
                self._changed()
