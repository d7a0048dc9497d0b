"""Events of a MemoryStore: which are kept, who misses what, and what wakes who waits."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence

import pytest

from callstate_client import Clock, InvalidParamsError, MemoryStore
from callstate_client import protocol as p
from callstate_client.memory.events import MemoryEvents
from callstate_client.memory.sessions import EVENTS_AT_ONCE
from callstate_client.protocol.events import Cursor, Event
from support.owners import START, a_call


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(Clock(START), worker_id="w1")


async def create(store: MemoryStore, *session_ids: str) -> None:
    for session_id in session_ids:
        await store.save(a_call(session_id))


async def take(events: MemoryEvents, count: int) -> list[Event]:
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


async def subscribe(
    store: MemoryStore, types: Sequence[str] | None = None, since: p.Since | None = None
) -> p.SubscribeResult:
    params = p.SubscribeParams(types=None if types is None else [*types], since=since)
    return p.decode_subscribe(await store.request("events.subscribe", params))


async def test_from_its_making_on_nothing_is_missed(store: MemoryStore) -> None:
    events = store.events()
    begin = events.cursor
    await create(store, "a", "b")
    assert [each.session_id for each in await take(events, 2)] == ["a", "b"]
    assert events.cursor == Cursor(begin.stream, begin.seq + 2)
    late = store.events()
    await create(store, "c")
    assert [each.session_id for each in await take(late, 1)] == ["c"]


async def test_each_store_has_a_stream_of_its_own(store: MemoryStore) -> None:
    other = MemoryStore(Clock(START))
    assert store.events().cursor.stream != other.events().cursor.stream
    assert store.events().cursor.stream == store.worker("w2").events().cursor.stream


async def test_much_that_was_missed_is_taken_some_at_a_time(store: MemoryStore) -> None:
    """Other tasks run in between, and what happens meanwhile comes behind."""
    begin = store.events().cursor
    await create(store, *(f"s{number}" for number in range(10 * EVENTS_AT_ONCE)))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.ensure_future(others())
    events = store.events(since=begin)
    first = await take(events, 1)
    await create(store, "last")
    rest = await take(events, 10 * EVENTS_AT_ONCE)
    other.cancel()
    assert turns >= 10 - 4, "but for what was taken with its making, and with changes"
    named = [each.session_id for each in first + rest]
    assert named == [*(f"s{number}" for number in range(10 * EVENTS_AT_ONCE)), "last"]
    assert {each.type for each in first + rest} == {"created"}


async def test_what_is_dropped_before_it_is_taken_is_a_gap_in_its_place(store: MemoryStore) -> None:
    store = MemoryStore(Clock(START), events=4 * EVENTS_AT_ONCE)
    begin = store.events().cursor
    await create(store, *(f"s{number}" for number in range(4 * EVENTS_AT_ONCE)))
    events = store.events(since=begin)
    await create(store, *(f"t{number}" for number in range(EVENTS_AT_ONCE)))
    seen: list[Event] = []
    while not seen or seen[-1].session_id != f"t{EVENTS_AT_ONCE - 1}":
        seen += await take(events, 1)
    seqs = [each.cursor.seq for each in seen]
    assert seqs == sorted(seqs), "a gap precedes what comes after it, and nothing else"
    assert len({each.cursor.seq for each in seen}) == len(seqs)


async def test_back_with_a_cursor(store: MemoryStore) -> None:
    events = store.events()
    await create(store, "a", "b", "c")
    first = (await take(events, 1))[0]
    events.close()
    again = store.events(since=first.cursor)
    assert [each.session_id for each in await take(again, 2)] == ["b", "c"]
    only = store.events("ended", since=first.cursor)
    await store.end("c")
    assert [each.session_id for each in await take(only, 1)] == ["c"]


async def test_back_from_another_stream(store: MemoryStore) -> None:
    await create(store, "a")
    events = store.events("created", since=Cursor("another", 7))
    await create(store, "b")
    gap, created = await take(events, 2)
    assert (gap.type, gap.reason, gap.cursor) == ("gap", "restart", Cursor(created.cursor.stream, 2))
    assert created.session_id == "b"


async def test_back_too_late() -> None:
    store = MemoryStore(Clock(START), worker_id=None, events=3)
    begin = store.events().cursor
    await create(store, *"abc")
    assert [each.session_id for each in await take(store.events(since=begin), 3)] == ["a", "b", "c"]
    await create(store, "d")
    gap, *kept = await take(store.events(since=begin), 4)
    assert (gap.type, gap.reason, gap.cursor.seq) == ("gap", "overrun", 1)
    assert [each.session_id for each in kept] == ["b", "c", "d"]
    assert [each.type for each in await take(store.events(since=gap.cursor), 3)] == ["created"] * 3


async def test_too_slow() -> None:
    store = MemoryStore(Clock(START), worker_id=None, events=3)
    events = store.events("created")
    await create(store, *"abcde")
    gap, *kept = await take(events, 4)
    assert (gap.type, gap.reason, gap.cursor.seq) == ("gap", "overrun", 2)
    assert [each.session_id for each in kept] == ["c", "d", "e"]
    await create(store, "f")
    assert [each.session_id for each in await take(events, 1)] == ["f"]


async def test_a_place_that_is_yet_to_come(store: MemoryStore) -> None:
    stream, seq = store.events().cursor
    with pytest.raises(InvalidParamsError) as caught:
        store.events(since=Cursor(stream, seq + 1))
    assert caught.value.path == "$.params.since.seq"


async def test_types_that_there_are(store: MemoryStore) -> None:
    with pytest.raises(InvalidParamsError) as caught:
        store.events("gap", "worker.left", "sung")
    assert caught.value.path == "$.params.types[2]"


async def test_turn_events_are_not_recorded_without_a_subscriber(store: MemoryStore) -> None:
    events = store.events()
    await create(store, "a")
    await store.add_turn("a", "user", "x")
    asked = store.events("turn")
    await store.add_turn("a", "user", "y")
    del asked
    gc.collect()
    await store.add_turn("a", "user", "z")
    await store.end("a")
    created, ended = await take(events, 2)
    assert (created.type, ended.type, ended.cursor.seq - created.cursor.seq) == ("created", "ended", 2)


async def test_an_event_is_of_its_moment(store: MemoryStore) -> None:
    events = store.events()
    await store.save(a_call(), labels={"app": "sales"})
    await store.save(a_call(provider="other"))
    created = (await take(events, 1))[0]
    assert (created.provider, created.labels) == ("sip", {"app": "sales"})
    created.labels["app"] = "mine"  # nobody else's
    assert (await store.get("c1")).labels == {"app": "sales"}


# -- waking -----------------------------------------------------------------------------------------------------


async def waiting(events: MemoryEvents) -> asyncio.Task[Event | None]:
    """Somebody who waits for the next event, and has begun to."""
    task = asyncio.create_task(anext(events, None))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_a_waiter_is_woken_by_an_event(store: MemoryStore) -> None:
    first, second = await waiting(store.events()), await waiting(store.worker().events("created"))
    await create(store, "a")
    assert (await first) == (await second)


async def test_a_waiter_is_woken_by_moving_the_clock(store: MemoryStore) -> None:
    await create(store, "a")
    task = await waiting(store.events("expired"))
    store.clock.advance(59)
    await asyncio.sleep(0)
    assert not task.done()
    store.clock.advance(1)
    event = await task
    assert event is not None
    assert event.session_id == "a"


async def test_a_waiter_is_woken_by_time() -> None:
    store = MemoryStore(worker_id="w1", heartbeat_timeout_s=0.02, grace_s=0.02, reconnect_grace_s=0.02)
    task = await waiting(store.worker().events("expired"))  # nothing is due when it begins to wait
    await create(store, "a")
    async with asyncio.timeout(10):
        event = await task
    assert event is not None
    assert event.reason == "heartbeat_timeout"
    task = await waiting(store.worker().events("worker.left"))
    await store.close()
    async with asyncio.timeout(10):
        assert await task is not None


async def test_it_ends_when_it_or_its_view_is_closed(store: MemoryStore) -> None:
    operator = store.worker()
    own = operator.events()
    tasks = [await waiting(own), await waiting(store.events())]
    other = await waiting(store.worker().events("created"))
    await own.aclose()
    store.kill_worker()
    assert await asyncio.gather(*tasks) == [None, None]
    assert own.closed
    await create(operator, "a")
    assert await other is not None
    async with operator.events() as events:
        task = await waiting(events)
        await operator.close()
        assert await task is None
        assert [event async for event in events] == []


async def test_left_by_its_block(store: MemoryStore) -> None:
    async with store.events() as events:
        await create(store, "a")
        assert [each.type for each in await take(events, 1)] == ["created"]
    assert await anext(events, None) is None


# -- the verb ---------------------------------------------------------------------------------------------------


async def test_the_verb_tells_the_place(store: MemoryStore) -> None:
    await create(store, "a")
    place = await subscribe(store)
    assert (place.stream, place.seq) == store.events().cursor
    behind = p.Since(stream=place.stream, seq=1)
    assert (await subscribe(store, ["created"], behind)).seq == 1
    assert (await subscribe(store, [], p.Since(stream="another", seq=9))).seq == place.seq
    with pytest.raises(InvalidParamsError):
        await subscribe(store, ["sung"])
    with pytest.raises(InvalidParamsError):
        await subscribe(store, None, p.Since(stream=place.stream, seq=place.seq + 1))
