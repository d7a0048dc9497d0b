"""The end of one call's transcript, as it grows. Pure but for `Transcript.follow`, which asks the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from callstate_client.api import CallStore
from callstate_client.errors import CallstateError, SessionNotFoundError
from callstate_client.model.state import Turn
from callstate_client.protocol.events import TURN
from callstate_client.store import Record

SHOWN_TURNS: Final = 200
"""Turns at the end of a transcript that are kept and shown."""

NEW_TURNS: Final = 20
"""Turns asked for when there are new ones: those, and some before them that may have been amended."""

MAX_TURN_EVENTS: Final = 500.0
"""Turns a second of the whole daemon up to which it is asked to tell of each: a subscriber gets those of all calls.
With more, the call is asked for at each interval."""


class Transcript:
    """One call with the end of its transcript.

    Args:
        session_id: which call.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.record: Record | None = None
        """The call as it was last read, with some of its turns; None before that, and when it is deleted."""
        self.turns: dict[int, Turn] = {}
        """The last turns, by index."""
        self.problem = ""
        """Why it can't be read; empty if it can."""
        self._woken = asyncio.Event()

    def take(self, record: Record) -> None:
        """Take what was read: turns replace those of the same index."""
        self.record = record
        for index, turn in enumerate(record.state.history, start=record.history_from):
            self.turns[index] = turn
        first = max(0, record.turn_count - SHOWN_TURNS)
        self.turns = {
            index: self.turns[index] for index in sorted(self.turns) if first <= index < record.turn_count
        }

    def wanted(self) -> int:
        """How many turns to ask for next: all that are shown, unless the last ones are known."""
        return NEW_TURNS if self.turns else SHOWN_TURNS

    def has_gap(self) -> bool:
        """Whether turns are missing, because more were added than asked for."""
        indexes = list(self.turns)
        return bool(indexes) and indexes[-1] - indexes[0] + 1 != len(indexes)

    # -- with the daemon --------------------------------------------------------------------------------------

    async def follow(
        self, store: CallStore, interval_s: float, changed: Callable[[], None], turn_rate: Callable[[], float]
    ) -> None:
        """Read the call whenever it has a new turn, and at each interval, until cancelled.

        Args:
            store: connected to the daemon.
            interval_s: seconds.
            changed: called after each reading.
            turn_rate: turns a second of the whole daemon, which decides whether it is asked to tell of them.
        """
        await self.read(store)
        changed()
        async with asyncio.TaskGroup() as tasks:
            if turn_rate() <= MAX_TURN_EVENTS:
                tasks.create_task(self._listen(store, turn_rate))
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):
                        await self._woken.wait()
                self._woken.clear()
                await self.read(store)
                changed()

    async def _listen(self, store: CallStore, turn_rate: Callable[[], float]) -> None:
        async with store.events(TURN, "ended", "expired") as events:
            async for event in events:
                if event.session_id == self.session_id:
                    self._woken.set()
                if turn_rate() > MAX_TURN_EVENTS:
                    return

    async def read(self, store: CallStore) -> None:
        """Read what is new of the call."""
        try:
            record = await store.get(self.session_id, history=self.wanted())
            self.take(record)
            if self.has_gap():
                self.take(await store.get(self.session_id, history=SHOWN_TURNS))
            self.problem = ""
        except SessionNotFoundError:
            self.record, self.problem = None, "there is no such call any more"
        except CallstateError as error:
            self.problem = str(error)
