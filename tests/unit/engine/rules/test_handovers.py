"""Calls that kill who claims them: counted, told, and ended; over a real core."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.phases import Phase
from callstate_client.engine.rules.handovers import counted_hold
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from callstate_sidecar.config.schema import ReaperConfig
from support.clock import START_US
from support.core import TIME, FakeClient
from support.core_harness import FULL, TIMEOUT_S, CoreHarness
from support.table_harness import TableHarness

HELD_S = 60.0


def create(table: TableHarness, session_id: str) -> Session:
    head = read_head(b'{"id":"%b","status":"active"}' % session_id.encode(), "$", lambda _: TIME)
    session = Session(session_id, Document(head, START_US))
    table.tx.create(session)
    return session


def add_turn(table: TableHarness, session: Session) -> None:
    table.tx.change(session)
    session.doc.append(b"{}", 1)


@pytest.fixture
async def w0(harness: CoreHarness) -> FakeClient:
    """Who created call `a`."""
    peer = await harness.worker("w0")
    await harness.save(peer, "a", heartbeat_timeout_s=2 * HELD_S, labels={"app": "x"})
    return peer


async def killed(harness: CoreHarness, number: int, *, after_s: float = 1.0) -> None:
    """A worker claims what there is, holds it for a while, and dies."""
    peer = await harness.worker(f"v{number}")
    assert (await harness.request(peer, "session.claim_next", worker_id=f"v{number}"))["session"]["id"] == "a"
    await harness.advance(after_s)
    await harness.kill(peer)


def count(harness: CoreHarness) -> tuple[int, int]:
    session = harness.core.session("a")
    return session.facts.handovers, session.facts.crashes


async def loaded(harness: CoreHarness) -> Any:
    return await harness.request(harness.operator, "session.load", session_id="a")


async def test_a_call_that_killed_three_claimers_is_ended(harness: CoreHarness, w0: FakeClient) -> None:
    await harness.kill(w0)  # who created it is no claimer
    assert count(harness) == (0, 0)
    for number in (1, 2):
        await killed(harness, number)
        assert count(harness) == (number, number)
        assert harness.phase("a") is Phase.SUSPECT
        assert (await loaded(harness))["handovers"] == number
    harness.new_events()
    await killed(harness, 3)
    assert [(e["type"], e["reason"]) for e in harness.new_events("expired", "suspect")] == [("expired", "poisoned")]
    assert (await loaded(harness))["ended_reason"] == "poisoned"
    harness.check_consistency()
    harness.check_replay()
    w4 = await harness.worker("w4")
    assert await harness.request(w4, "session.claim_next", worker_id="w4") is None
    # on purpose it can be had, as what was reaped; and is ended again by the next death
    claimed = await harness.claim(w4, "a", "w4")
    assert (claimed["session"]["status"], claimed["handovers"]) == ("active", 3)
    await harness.kill(w4)
    assert (await loaded(harness))["ended_reason"] == "poisoned"


async def test_a_hold_of_a_minute_resets_the_counts(harness: CoreHarness, w0: FakeClient) -> None:
    await harness.kill(w0)
    for number in (1, 2):
        await killed(harness, number, after_s=HELD_S - 1)
    await killed(harness, 3, after_s=HELD_S)
    assert count(harness) == (0, 0)
    assert "handovers" not in await loaded(harness)
    for number in (4, 5):
        await killed(harness, number)
    assert harness.phase("a") is Phase.SUSPECT


async def test_a_released_call_counts_a_handover_and_no_crash(harness: CoreHarness, w0: FakeClient) -> None:
    w1, w2 = await harness.worker("w1"), await harness.worker("w2")
    await harness.request(w0, "session.release", session_id="a", epoch=0)
    assert count(harness) == (0, 0), "it was created, and not claimed"
    for number in range(1, 6):
        claimed = await harness.request(w1, "session.claim_next", worker_id="w1")
        assert claimed.get("handovers", 0) == number - 1
        await harness.request(w1, "session.release", session_id="a", epoch=claimed["epoch"])
        assert count(harness) == (number, 0)
    harness.check_replay()
    assert (await harness.claim(w2, "a", "w2"))["handovers"] == 5
    await harness.claim(w1, "a", "w1", steal=True)
    assert count(harness) == (6, 0)
    listed = await harness.request(harness.operator, "session.list")
    assert listed["sessions"][0]["handovers"] == 6


async def test_a_call_that_was_lost_by_silence_is_counted_once(harness: CoreHarness, w0: FakeClient) -> None:
    await harness.kill(w0)
    w1, w2 = await harness.worker("w1"), await harness.worker("w2")
    await harness.claim(w1, "a", "w1", heartbeat_timeout_s=TIMEOUT_S)
    await harness.advance(TIMEOUT_S)
    assert (await harness.claim(w2, "a", "w2"))["handovers"] == 1
    assert count(harness) == (1, 0)


async def test_the_count_outlives_the_daemon(harness: CoreHarness, w0: FakeClient) -> None:
    await harness.kill(w0)
    for number in (1, 2):
        await killed(harness, number)
        await harness.restart()
        assert count(harness) == (number, number), "found dead at the start: the same again"
        assert harness.phase("a") is Phase.SUSPECT
    peer = await harness.worker("v3")
    await harness.claim(peer, "a", "v3")
    harness.exit(harness.process_of(peer))  # while the daemon is down for long
    harness.core.clock.advance(10 * HELD_S)
    await harness.restart()
    assert (await loaded(harness))["ended_reason"] == "poisoned"


async def test_an_end_that_was_not_journaled_comes_when_it_can(harness: CoreHarness, w0: FakeClient) -> None:
    await harness.kill(w0)
    for number in (1, 2):
        await killed(harness, number)
    peer = await harness.worker("v3")
    await harness.claim(peer, "a", "v3")
    harness.disk.error = FULL
    await harness.kill(peer)
    assert harness.core.session("a").doc.status == "active"
    w4 = await harness.worker("w4")
    assert await harness.request(w4, "session.claim_next", worker_id="w4") is None, "it is about to be ended"
    harness.disk.error = None
    await harness.advance(1.0)
    assert (await loaded(harness))["ended_reason"] == "poisoned"
    harness.check_replay()


async def test_a_death_stays_counted_however_long_the_journal_is_full(harness: CoreHarness, w0: FakeClient) -> None:
    """A minute later the present time would say that the claimer had survived the handover."""
    await harness.kill(w0)
    for number in (1, 2):
        await killed(harness, number)
    peer = await harness.worker("v3")
    await harness.claim(peer, "a", "v3")
    harness.disk.error = FULL
    await harness.kill(peer)
    await harness.advance(2 * HELD_S)
    assert (harness.core.session("a").ended, count(harness)) == (False, (3, 3))
    harness.disk.error = None
    await harness.advance(1.0)
    assert (await loaded(harness))["ended_reason"] == "poisoned"
    assert count(harness) == (3, 3)
    harness.check_replay()


def test_a_death_in_the_group_of_an_undone_change_stays_counted() -> None:
    table = TableHarness()
    session = create(table, "a")
    session.change_facts(claimed_us=START_US)
    table.tx.commit()
    add_turn(table, session)
    table.tx.observe_hold(session, counted_hold(session, START_US, crashed=True))
    table.rollback()
    assert session.doc.turn_count == 0
    assert (session.facts.claimed_us, session.facts.handovers, session.facts.crashes) == (0, 1, 1)


def test_a_death_is_not_counted_if_the_claim_is_undone() -> None:
    table = TableHarness()
    session = create(table, "a")
    session.change_facts(claimed_us=START_US, handovers=1)
    table.tx.commit()
    table.tx.change(session)
    session.change_facts(claimed_us=START_US + 1, handovers=2)
    table.tx.observe_hold(session, counted_hold(session, START_US + 2, crashed=True))
    assert session.facts.crashes == 1
    table.rollback()
    assert (session.facts.claimed_us, session.facts.handovers, session.facts.crashes) == (START_US, 1, 0)


async def test_a_silent_claimer_that_dies_has_died_of_it_too(harness: CoreHarness, w0: FakeClient) -> None:
    await harness.kill(w0)
    for number in (1, 2):
        await killed(harness, number)
    peer = await harness.worker("v3")
    await harness.claim(peer, "a", "v3", heartbeat_timeout_s=5)
    await harness.advance(6)
    assert harness.core.session("a").suspected == "heartbeat_timeout"
    await harness.kill(peer)
    assert (await loaded(harness))["ended_reason"] == "poisoned"


@pytest.mark.parametrize(("limit", "deaths"), [(1, 1), (0, 6)])
async def test_the_limit_is_configured(tmp_path: Any, limit: int, deaths: int) -> None:
    harness = CoreHarness(tmp_path, reaper=ReaperConfig(max_handovers=limit))
    try:
        await harness.save(await harness.worker("w0"), "a")
        await harness.kill(await harness.worker("x"))
        await harness.claim(harness.operator, "a", "w1", steal=True)
        for number in range(deaths):
            peer = await harness.worker(f"v{number}")
            await harness.claim(peer, "a", f"v{number}", steal=True)
            await harness.kill(peer)
        assert harness.core.session("a").ended is bool(limit)
    finally:
        await harness.close()
