"""The bound on hot bytes: what leaves memory, what is refused, and what goes on."""

from __future__ import annotations

import pytest

from callstate_client.engine.hot_bytes import HotBytes
from callstate_client.engine.limits import SESSION_BYTES, DefaultLimits
from callstate_client.engine.rules.room import HALVINGS, Room
from callstate_client.engine.sessions.session import Session
from callstate_client.errors import OverloadedError, SessionEndedError
from callstate_sidecar.config.schema import LimitsConfig, ReaperConfig
from callstate_sidecar.hot_memory import SLICE_S
from support.core import Core
from support.hot_bytes import recounted
from support.stores import down
from support.verbs import refused

BOUND = 1_000_000
BIG = {"recovery_data": {"x": "x" * 48_000}}
"""Of a session that takes a twentieth of the bound."""


def bounded(hot_bytes: int = BOUND, **options: float) -> Core:
    return Core(limits=LimitsConfig(hot_bytes=hot_bytes), reaper=ReaperConfig(**options))


async def fill(core: Core, *, until: float = BOUND) -> list[str]:
    """Save big sessions until so many bytes are reached; returns their ids."""
    ids: list[str] = []
    while core.table.hot.total < until:
        ids.append(f"s{len(ids)}")
        await core.save(ids[-1], session=BIG)
    return ids


async def flush(core: Core) -> None:
    while core.table.dirty.marks:
        await core.writer.write_round()


def test_the_share_of_a_session_halves_until_nothing_grows() -> None:
    hot, limits = HotBytes(), DefaultLimits(hot_bytes=400 << 20)
    room, shares = Room(hot), list[int]()
    for step in range(HALVINGS + 1):
        hot.total = (400 << 20) + (100 << 20) * step // HALVINGS + 1
        shares.append(room.share(limits))
    assert shares == [SESSION_BYTES >> step for step in range(HALVINGS)] + [0]
    assert shares[HALVINGS // 2] >= 64 * 1024, "ordinary calls go on half of the way"
    hot.total = 400 << 20
    assert room.share(limits) == SESSION_BYTES


def test_without_a_bound_everything_may_grow() -> None:
    hot = HotBytes()
    hot.total = 1 << 50
    assert not Room(hot).is_full(DefaultLimits())
    assert Room(hot).share(DefaultLimits()) == SESSION_BYTES


async def test_at_the_bound_new_sessions_are_refused_with_the_bound() -> None:
    core = bounded()
    await fill(core)
    with pytest.raises(OverloadedError, match=f"limits.hot_bytes \\({BOUND}\\) is reached") as error:
        await core.save("new")
    assert error.value.retryable
    assert error.value.data == {"hot_bytes": core.table.hot.total, "hot_bytes_limit": BOUND}


async def test_at_the_bound_live_calls_go_on_and_end() -> None:
    core = bounded()
    await fill(core)
    for number in range(20):
        await core.turn("s0", op=f"op-{number}")
    await core.call("session.heartbeat", session_id="s0")
    await core.call("session.update", session_id="s0", set={"status": "on_hold"})
    await core.call("session.amend_turn", session_id="s0", set={"content": "as far as it was spoken, and longer"})
    await core.call("session.end", session_id="s0", detail={"cause": 16})
    await core.call("session.delete", session_id="s1")


async def test_ended_sessions_leave_memory_in_the_order_of_their_ends() -> None:
    core = bounded()
    ids = await fill(core, until=BOUND * 15 / 16)
    for session_id in ids[:8]:
        await core.call("session.end", session_id=session_id)
        core.clock.advance(1)
    await flush(core)
    core.advance(1)
    left = [session_id for session_id in ids[:8] if session_id in core.table.sessions]
    assert 0 < len(left) < 8
    assert left == ids[8 - len(left) : 8]
    assert core.table.hot.total <= BOUND * 7 / 8
    assert core.metrics.counters["evicted"] == 8 - len(left)
    assert core.table.hot.total == recounted(core.table, core.events)
    before = [*core.table.sessions]
    core.advance(1)
    assert [*core.table.sessions] == before, "it rests until there is need again"


async def test_a_slice_of_evictions_ends_when_its_time_is_over_and_another_follows() -> None:
    core = bounded()
    ids = await fill(core)
    for session_id in ids[:8]:
        await core.call("session.end", session_id=session_id)
    await flush(core)
    memory, evict = core.reaper.memory, core.ctx.evict

    def slow(session: Session) -> None:
        evict(session)
        core.clock.advance(SLICE_S * 0.6)

    core.ctx.evict = slow  # type: ignore[method-assign]
    assert (memory.relieve(), memory.was_cut) == (2, True)
    core.commit()
    assert (memory.relieve(), memory.was_cut) == (1, False)
    core.commit()
    assert core.table.sessions.keys() == {*ids[3:]}


async def test_an_evicted_session_is_read_from_the_store_and_not_replayed() -> None:
    core = bounded()
    ids = await fill(core)
    await core.call("session.end", session_id=ids[0], reason="caller_hangup")
    await flush(core)
    core.advance(1)
    assert ids[0] not in core.table.sessions
    assert ids[0] not in core.replayed().sessions
    assert (await core.call("session.load", session_id=ids[0]))["session"]["status"] == "ended"


async def test_an_ended_session_that_the_store_lacks_stays() -> None:
    core = bounded()
    core.memory.failure = down
    ids = await fill(core)
    for session_id in ids:
        await core.call("session.end", session_id=session_id)
    core.advance(1)
    assert core.table.sessions.keys() == {*ids}


async def test_a_reaped_session_that_was_evicted_can_be_claimed_within_the_retention() -> None:
    core = bounded(heartbeat_timeout_s=10, grace_s=0, retention_s=100)
    await core.save("reaped", session=BIG)
    core.advance(11)
    core.advance(1)
    assert core.session("reaped").facts.reaped
    ids = await fill(core)
    await flush(core)
    core.advance(1)
    assert "reaped" not in core.table.sessions
    await core.call("session.end", session_id=ids[-1])
    await flush(core)
    core.advance(1)
    claimed = await core.call("session.claim", session_id="reaped", worker_id="w2")
    assert claimed["session"]["status"] == "active"
    assert core.session("reaped").facts.owner == "w2"


async def test_a_reaped_session_that_was_evicted_has_ended_after_the_retention() -> None:
    core = bounded(heartbeat_timeout_s=10, grace_s=0, retention_s=100)
    await core.save("reaped", session=BIG)
    core.advance(11)
    core.advance(1)
    await flush(core)
    core.advance(101)
    assert "reaped" not in core.table.sessions
    await refused(SessionEndedError, core, "session.claim", session_id="reaped", worker_id="w2")


async def test_what_is_only_in_the_store_is_served_and_not_brought_in() -> None:
    core = bounded()
    await core.save("cold")
    await flush(core)
    core.ctx.evict(core.session("cold"))
    core.commit()
    await fill(core)
    for _ in range(2):
        assert (await core.call("session.load", session_id="cold"))["session"]["status"] == "active"
        await core.call("session.heartbeat", session_id="cold")
        await refused(OverloadedError, core, "session.claim", session_id="cold", worker_id="w1")
        turn = {"role": "user", "content": "hello"}
        await refused(OverloadedError, core, "session.add_turn", session_id="cold", turn=turn)
    assert "cold" not in core.table.sessions
    core.advance(3600)


async def test_large_sessions_stop_growing_first_and_small_ones_last() -> None:
    core = bounded()
    ids = await fill(core)
    await core.call("session.delete", session_id=ids.pop())
    await core.save("small")
    await core.save("tiny")
    while not core.ctx.room.growth_refused:
        for session_id in ids:
            try:
                await core.turn(session_id, "x" * 5000)
            except OverloadedError as error:
                share = error.data["session_bytes"]
                assert core.session(session_id).doc.size + 5000 > share
                break
    for number in range(10):
        await core.turn("small", op=f"op-{number}")
    assert core.table.hot.total < BOUND * 5 / 4
    core.advance(1)
    assert core.metrics.counters["growth_refused"] == 1


async def test_at_the_ceiling_nothing_grows_and_everything_may_end() -> None:
    core = bounded()
    ids = await fill(core)
    core.ctx.limits = LimitsConfig(hot_bytes=BOUND // 2)
    turn = {"role": "user", "content": "hello"}
    await refused(OverloadedError, core, "session.add_turn", session_id="s0", turn=turn)
    await refused(OverloadedError, core, "session.update", session_id="s0", set={"note": "longer"})
    await refused(OverloadedError, core, "session.save", session={"id": "s0", **BIG}, labels={"app": "x" * 200})
    await core.call("session.heartbeat", session_id="s0")
    await core.call("session.update", session_id="s0", set={"status": "ended", "recovery_data": None})
    await core.call("session.save", session={"id": "s1", "status": "ended"})
    await core.call("session.end", session_id="s2", detail={"x": "x" * 1000}, op="op-1")
    await flush(core)
    core.advance(1)
    assert core.table.sessions.keys().isdisjoint(ids[:3])


async def test_sessions_that_the_store_refuses_do_not_hide_those_that_may_leave() -> None:
    core = bounded()
    ids = await fill(core)
    for session_id in ids[:2]:
        await core.call("session.end", session_id=session_id)
    await flush(core)
    core.session(ids[0]).stored_version = 0
    core.session(ids[0]).quarantined = "too large"
    core.advance(1)
    assert ids[0] in core.table.sessions
    assert ids[1] not in core.table.sessions
    assert [each.id for each in core.liveness.ended] == [ids[0]]


async def test_the_log_says_when_the_bound_is_reached_and_left(caplog: pytest.LogCaptureFixture) -> None:
    core = bounded()
    caplog.set_level("INFO")
    ids = await fill(core)
    for _ in range(3):
        core.advance(0.1)
    for session_id in ids[:2]:
        await core.call("session.delete", session_id=session_id)
    for _ in range(3):
        core.advance(0.1)
    events = [record.event for record in caplog.records if record.event.startswith("hot_")]  # type: ignore[attr-defined]
    assert events == ["hot_bytes_reached", "hot_bytes_left"]


async def test_the_check_says_when_memory_is_short() -> None:
    core = bounded()
    await core.save("a")
    assert [finding["kind"] for finding in (await core.call("server.check"))["findings"]] == []
    await fill(core)
    assert [finding["kind"] for finding in (await core.call("server.check"))["findings"]] == ["memory_short"]
