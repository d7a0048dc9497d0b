"""Calls that kill who claims them: counted, told, and ended; over a real core."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.liveness import Phase
from callstate_sidecar.config.schema import ReaperConfig
from support.core import Peer
from support.floor import FULL, TIMEOUT_S, Floor

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # time is passed in, and processes are pipes

HELD_S = 60.0


@pytest.fixture
async def w0(floor: Floor) -> Peer:
    """Who created call `a`."""
    peer = await floor.worker("w0")
    await floor.save(peer, "a", heartbeat_timeout_s=2 * HELD_S, labels={"app": "x"})
    return peer


async def killed(floor: Floor, number: int, *, after_s: float = 1.0) -> None:
    """A worker claims what there is, holds it for a while, and dies."""
    peer = await floor.worker(f"v{number}")
    assert (await floor.ask(peer, "session.claim_next", worker_id=f"v{number}"))["session"]["id"] == "a"
    await floor.pass_time(after_s)
    await floor.kill(peer)


def count(floor: Floor) -> tuple[int, int]:
    entry = floor.core.entry("a")
    return entry.handovers, entry.crashes


async def loaded(floor: Floor) -> Any:
    return await floor.ask(floor.operator, "session.load", session_id="a")


async def test_a_call_that_killed_three_claimers_is_ended(floor: Floor, w0: Peer) -> None:
    await floor.kill(w0)  # who created it is no claimer
    assert count(floor) == (0, 0)
    for number in (1, 2):
        await killed(floor, number)
        assert count(floor) == (number, number)
        assert floor.phase("a") is Phase.SUSPECT
        assert (await loaded(floor))["handovers"] == number
    floor.told()
    await killed(floor, 3)
    assert [(e["type"], e["reason"]) for e in floor.told("expired", "suspect")] == [("expired", "poisoned")]
    assert (await loaded(floor))["ended_reason"] == "poisoned"
    floor.check()
    floor.check_replay()
    w4 = await floor.worker("w4")
    assert await floor.ask(w4, "session.claim_next", worker_id="w4") is None
    # on purpose it can be had, as what was reaped; and is ended again by the next death
    claimed = await floor.claim(w4, "a", "w4")
    assert (claimed["session"]["status"], claimed["handovers"]) == ("active", 3)
    await floor.kill(w4)
    assert (await loaded(floor))["ended_reason"] == "poisoned"


async def test_who_holds_it_for_a_minute_clears_it(floor: Floor, w0: Peer) -> None:
    await floor.kill(w0)
    for number in (1, 2):
        await killed(floor, number, after_s=HELD_S - 1)
    await killed(floor, 3, after_s=HELD_S)
    assert count(floor) == (0, 0)
    assert "handovers" not in await loaded(floor)
    for number in (4, 5):
        await killed(floor, number)
    assert floor.phase("a") is Phase.SUSPECT


async def test_what_is_given_up_changes_hands_and_kills_nobody(floor: Floor, w0: Peer) -> None:
    w1, w2 = await floor.worker("w1"), await floor.worker("w2")
    await floor.ask(w0, "session.release", session_id="a", epoch=0)
    assert count(floor) == (0, 0), "it was created, and not claimed"
    for number in range(1, 6):
        claimed = await floor.ask(w1, "session.claim_next", worker_id="w1")
        assert claimed.get("handovers", 0) == number - 1
        await floor.ask(w1, "session.release", session_id="a", epoch=claimed["epoch"])
        assert count(floor) == (number, 0)
    floor.check_replay()
    assert (await floor.claim(w2, "a", "w2"))["handovers"] == 5
    await floor.claim(w1, "a", "w1", steal=True)
    assert count(floor) == (6, 0)
    listed = await floor.ask(floor.operator, "session.list")
    assert listed["sessions"][0]["handovers"] == 6


async def test_a_call_that_was_lost_by_silence_is_counted_once(floor: Floor, w0: Peer) -> None:
    await floor.kill(w0)
    w1, w2 = await floor.worker("w1"), await floor.worker("w2")
    await floor.claim(w1, "a", "w1", heartbeat_timeout_s=TIMEOUT_S)
    await floor.pass_time(TIMEOUT_S)
    assert (await floor.claim(w2, "a", "w2"))["handovers"] == 1
    assert count(floor) == (1, 0)


async def test_the_count_outlives_the_daemon(floor: Floor, w0: Peer) -> None:
    await floor.kill(w0)
    for number in (1, 2):
        await killed(floor, number)
        await floor.restart()
        assert count(floor) == (number, number), "found dead at the start: the same again"
        assert floor.phase("a") is Phase.SUSPECT
    peer = await floor.worker("v3")
    await floor.claim(peer, "a", "v3")
    floor.exit(floor.program_of(peer))  # while the daemon is down for long
    floor.core.clock.advance(10 * HELD_S)
    await floor.restart()
    assert (await loaded(floor))["ended_reason"] == "poisoned"


async def test_an_end_that_was_not_journaled_comes_when_it_can(floor: Floor, w0: Peer) -> None:
    await floor.kill(w0)
    for number in (1, 2):
        await killed(floor, number)
    peer = await floor.worker("v3")
    await floor.claim(peer, "a", "v3")
    floor.disk.error = FULL
    await floor.kill(peer)
    assert floor.core.entry("a").doc.status == "active"
    w4 = await floor.worker("w4")
    assert await floor.ask(w4, "session.claim_next", worker_id="w4") is None, "it is about to be ended"
    floor.disk.error = None
    await floor.pass_time(1.0)
    assert (await loaded(floor))["ended_reason"] == "poisoned"
    floor.check_replay()


async def test_a_silent_claimer_that_dies_has_died_of_it_too(floor: Floor, w0: Peer) -> None:
    await floor.kill(w0)
    for number in (1, 2):
        await killed(floor, number)
    peer = await floor.worker("v3")
    await floor.claim(peer, "a", "v3", heartbeat_timeout_s=5)
    await floor.pass_time(6)
    assert floor.core.entry("a").suspected == "heartbeat_timeout"
    await floor.kill(peer)
    assert (await loaded(floor))["ended_reason"] == "poisoned"


@pytest.mark.parametrize(("limit", "deaths"), [(1, 1), (0, 6)])
async def test_the_limit_is_configured(tmp_path: Any, limit: int, deaths: int) -> None:
    floor = Floor(tmp_path, reaper=ReaperConfig(max_handovers=limit))
    try:
        await floor.save(await floor.worker("w0"), "a")
        await floor.kill(await floor.worker("x"))
        await floor.claim(floor.operator, "a", "w1", steal=True)
        for number in range(deaths):
            peer = await floor.worker(f"v{number}")
            await floor.claim(peer, "a", f"v{number}", steal=True)
            await floor.kill(peer)
        assert floor.core.entry("a").ended is bool(limit)
    finally:
        await floor.close()
