from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from typing import Any

import pytest

from callstate_client import Cursor, Event
from callstate_client.calls.recovery.orphan_events import OrphanEvents
from callstate_client.calls.recovery.retries import Retries

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Source:
    """Events that a test lets arrive."""

    def __init__(self) -> None:
        self._arrived: deque[Event] = deque()
        self._more = asyncio.Event()
        self._closed = False

    def arrive(self, kind: str, session_id: str | None = None, **members: Any) -> None:
        self._arrived.append(Event(cursor=Cursor("s", 1), type=kind, at=NOW, session_id=session_id, **members))
        self._more.set()

    def close(self) -> None:
        self._closed = True
        self._more.set()

    def take(self) -> Event | None:
        return self._arrived.popleft() if self._arrived else None

    async def __anext__(self) -> Event:
        while not self._arrived:
            if self._closed:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        return self._arrived.popleft()


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def retries() -> Retries:
    return Retries(watch=True)


def orphans(source: Any, retries: Retries, **labels: str) -> OrphanEvents:
    events = OrphanEvents(source, labels or None, retries)
    assert events, "any session may be claimable at first"
    events.clear()
    return events


@pytest.mark.parametrize("kind", ["suspect", "orphaned", "released"])
@pytest.mark.parametrize("end", ["claimed", "recovered", "ended", "expired", "deleted"])
async def test_a_session_is_a_candidate_until_it_is_taken(
    source: Source, retries: Retries, kind: str, end: str
) -> None:
    events = orphans(source, retries)
    source.arrive(kind, "c1")
    events.note_arrived()
    assert events
    source.arrive(end, "c2")
    events.note_arrived()
    assert events
    source.arrive(end, "c1")
    events.note_arrived()
    assert not events


async def test_a_gap_means_that_any_session_may_be(source: Source, retries: Retries) -> None:
    events = orphans(source, retries)
    source.arrive("gap")
    events.note_arrived()
    assert events


async def test_only_with_the_labels(source: Source, retries: Retries) -> None:
    events = orphans(source, retries, app="sales")
    source.arrive("orphaned", "c1", labels={"app": "support"})
    events.note_arrived()
    assert not events
    source.arrive("orphaned", "c2", labels={"app": "sales", "more": "x"})
    events.note_arrived()
    assert events


async def test_an_abandoned_session_is_none_and_is_forgotten_when_it_is_over(
    source: Source, retries: Retries
) -> None:
    events = orphans(source, retries)
    retries.abandon("c1")
    source.arrive("orphaned", "c1")
    source.arrive("claimed", "c1")
    events.note_arrived()
    assert not events
    assert retries.is_abandoned("c1")
    source.arrive("expired", "c1")
    events.note_arrived()
    assert not retries.is_abandoned("c1")


async def test_waiting_ends_with_an_event_the_time_or_the_subscription(source: Source, retries: Retries) -> None:
    events = orphans(source, retries)
    assert await events.wait(0)
    assert not events
    source.arrive("orphaned", "c1")
    assert await events.wait(None)
    assert events
    assert await events.wait(0)
    source.close()
    assert not await events.wait(None)


async def test_an_event_that_arrives_between_waits_is_recorded(source: Source, retries: Retries) -> None:
    events = orphans(source, retries)
    await events.wait(0)
    source.arrive("orphaned", "c1")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    events.note_arrived()
    assert events
    events.close()


async def test_closing_cancels_the_wait(source: Source, retries: Retries) -> None:
    events = orphans(source, retries)
    await events.wait(0)
    events.close()
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()]
