"""When time does what to a session of a MemoryStore: pure; and that it does not care who sets the wall clock."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from callstate_client import Clock, MemoryStore, SessionState
from callstate_client.engine_fates import Fate, Spans, next_fate
from callstate_client.engine_kept import Kept, Moment
from callstate_client.model.times import ZERO_TIME, parse_time
from support.owners import START, a_call

SPANS = Spans(heartbeat_timeout_s=30, grace_s=20, retention_s=300)


def kept(**members: object) -> Kept:
    call = Kept(a_call(), 1, alive_at=1000.0, beat_at=START, heartbeat_timeout_s=30.0)
    call.born_at = 1000.0
    for name, value in members.items():
        setattr(call, name, value)
    return call


@pytest.mark.parametrize(
    ("call", "at", "fate"),
    [
        (kept(), 1030, Fate.SUSPECT),
        (kept(heartbeat_timeout_s=5.0), 1005, Fate.SUSPECT),
        (kept(suspicion="heartbeat_timeout", suspect_at=1030.0), 1050, Fate.REAP),
        (kept(max_duration_s=10.0), 1010, Fate.REAP_OVERTIME),
        (kept(max_duration_s=30.0), 1030, Fate.REAP_OVERTIME),
        (kept(max_duration_s=40.0), 1030, Fate.SUSPECT),
        (kept(max_duration_s=45.0, suspicion="x", suspect_at=1030.0), 1045, Fate.REAP_OVERTIME),
        (kept(max_duration_s=10.0, born_at=900.0), 910, Fate.REAP_OVERTIME),
        (kept(state=a_call(status="ended"), ended_mono=1100.0, max_duration_s=1.0), 1400, Fate.FORGET),
    ],
)
def test_what_comes_next(call: Kept, at: float, fate: Fate) -> None:
    assert next_fate(call, SPANS) == (at, fate)


@pytest.mark.parametrize(
    ("created_at", "born_at"),
    [
        (START, 1000.0),
        (START - timedelta(seconds=60), 940.0),
        (START + timedelta(seconds=60), 1060.0),
        (parse_time(ZERO_TIME), 1000.0),
    ],
)
def test_the_age_is_reckoned_once(created_at: datetime, born_at: float) -> None:
    call = Kept(a_call(created_at=created_at), 1, alive_at=1000.0, beat_at=START, heartbeat_timeout_s=30.0)
    call.reckon_age(Moment(1000.0, START))
    assert call.born_at == born_at
    call.reckon_age(Moment(1010.0, START + timedelta(hours=1)))
    assert call.born_at == born_at
    call.state.created_at = START + timedelta(hours=1)
    call.reckon_age(Moment(1010.0, START + timedelta(hours=1)))
    assert call.born_at == 1010.0


# -- a wall clock that is set -------------------------------------------------------------------------------------


class Wall(Clock):
    """A clock whose time of day can be set; spans don't notice."""

    def __init__(self) -> None:
        super().__init__(START)
        self.set_by = timedelta()

    def now(self) -> datetime:
        return super().now() + self.set_by


async def reason(store: MemoryStore, after_s: float) -> str | None:
    store.clock.advance(after_s)
    return (await store.get("c1")).ended_reason


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(), timedelta(hours=1)])
async def test_a_wall_clock_that_is_set_does_not_move_the_limit(step: timedelta) -> None:
    wall = Wall()
    store = MemoryStore(wall, heartbeat_timeout_s=1000)
    await store.save(a_call(created_at=START - timedelta(seconds=10)), max_duration_s=60)
    wall.set_by = step
    assert await reason(store, 10) is None
    await store.add_turn("c1", "user", "still there")
    await store.update("c1", status="on_hold")
    await store.save(await store.load("c1"), max_duration_s=60)
    assert await reason(store, 39) is None
    assert await reason(store, 1) == "max_duration"


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(hours=1)])
async def test_nor_does_it_by_a_claim_or_a_release(step: timedelta) -> None:
    wall = Wall()
    store = MemoryStore(wall, worker_id="w1", heartbeat_timeout_s=1000)
    other = store.worker("w2")
    await store.save(a_call(), max_duration_s=60)
    wall.set_by = step
    await other.claim("c1", steal=True)
    assert await reason(store, 30) is None
    await other.release("c1", 1)
    await store.claim("c1")
    assert await reason(store, 29) is None
    assert await reason(store, 1) == "max_duration"


async def test_what_was_reaped_for_its_silence_keeps_its_limit_when_it_is_claimed() -> None:
    store = MemoryStore(Clock(START), heartbeat_timeout_s=10, grace_s=10)
    await store.save(a_call(), max_duration_s=35)
    assert await reason(store, 20) == "heartbeat_timeout"
    await store.claim("c1")
    await store.save(await store.load("c1"), heartbeat_timeout_s=100)
    assert await reason(store, 14) is None
    assert await reason(store, 1) == "max_duration"
    await store.claim("c1")
    assert await reason(store, 50) is None, "what was over time goes on without a limit"


async def test_a_call_that_does_not_say_when_it_began_begins_now() -> None:
    store = MemoryStore(Clock(START))
    await store.save(SessionState("c1", created_at=parse_time(ZERO_TIME)), max_duration_s=10)
    assert await reason(store, 9) is None
    assert await reason(store, 1) == "max_duration"
