"""The tick: dead calls are ended with all they have, live ones never, however long the daemon itself slept."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.expiry import Verdicts
from callstate_client.engine.phases import Phase
from callstate_client.errors import NotDurableError, SessionEndedError
from callstate_sidecar import reaper as reaper_module
from callstate_sidecar.config.schema import ReaperConfig
from callstate_sidecar.reaper import SESSIONS_A_SLICE, SESSIONS_A_STEP, SLICE_S, STALL_S
from callstate_sidecar.slices import Slices
from support.core import BadDisk, Core, open_journal
from support.stores import down

TIMEOUT_S, GRACE_S, RETENTION_S = 30.0, 30.0, 300.0


def pass_time(core: Core, seconds: float) -> int:
    core.clock.advance(seconds)
    return core.reaper.tick(core.clock.live())


async def test_silence_makes_suspect_and_more_of_it_ends() -> None:
    core = Core()
    await core.save("a", labels={"app": "x"})
    await core.turn("a", "last words")
    core.clock.advance(4.0)
    await core.call("session.heartbeat", session_id="a")
    assert pass_time(core, TIMEOUT_S - 0.001) == 0
    assert pass_time(core, 0.001) == 1
    assert core.phase("a") is Phase.SUSPECT
    assert not core.session("a").ended
    assert pass_time(core, GRACE_S - 0.001) == 0
    assert pass_time(core, 0.001) == 1
    loaded = await core.call("session.load", session_id="a")
    assert loaded["session"]["status"] == "ended"
    assert loaded["ended_reason"] == "heartbeat_timeout"
    assert loaded["session"]["updated_at"] == "2026-01-01T00:00:04Z", "the last evidence"
    assert loaded["session"]["history"][0]["content"] == "last words"
    assert loaded["labels"] == {"app": "x"}
    assert (await core.call("session.list_active"))["session_ids"] == []
    with pytest.raises(SessionEndedError) as late:
        await core.call("session.heartbeat", session_id="a")
    assert late.value.reason == "heartbeat_timeout"
    assert late.value.ended_at == "2026-01-01T00:01:04Z"
    assert core.metrics.counters == core.metrics.counters | {"suspected": 1, "reaped": 1}
    stats = core.metrics.to_dict()
    assert stats["suspected_by_reason"] == stats["reaped_by_reason"] == {"heartbeat_timeout": 1}


async def test_a_reaped_session_reaches_store_and_journal_with_all_it_has() -> None:
    core = Core()
    await core.save("a")
    await core.turn("a")
    pass_time(core, TIMEOUT_S)
    pass_time(core, GRACE_S)
    await core.writer.write_round()
    row = core.memory.rows["a"]
    document = json.loads(row.document or b"")
    assert (document["status"], len(document["history"])) == ("ended", 1)
    assert row.meta is not None
    assert (row.meta.ended_reason, row.meta.reaped) == ("heartbeat_timeout", True)
    assert core.memory.active == set()
    replayed = core.replayed().sessions["a"]
    assert (replayed.ended, replayed.facts.reaped, replayed.doc.turn_count) == (True, True, 1)


async def test_a_suspect_that_beats_lives_on() -> None:
    core = Core()
    await core.save("a")
    for _ in range(3):
        pass_time(core, TIMEOUT_S)
        assert core.phase("a") is Phase.SUSPECT
        core.clock.advance(GRACE_S - 0.001)
        await core.call("session.heartbeat", session_id="a")
        assert core.reaper.tick(core.clock.live()) == 0
        assert core.phase("a") is Phase.LIVE


async def test_ended_sessions_leave_memory_and_are_read_from_the_store() -> None:
    core = Core()
    await core.save("a")
    await core.call("session.end", session_id="a", reason="hangup")
    await core.writer.write_round()
    pass_time(core, RETENTION_S - 0.001)
    assert "a" in core.table.sessions
    pass_time(core, 0.001)
    assert not core.table.sessions
    assert len(core.liveness) == 0
    assert not core.replayed().sessions, "after a restart too"
    loaded = await core.call("session.load", session_id="a")
    assert loaded["ended_reason"] == "hangup"
    assert core.memory.reads == ["a", "a"], "once before it was created, and now"


@pytest.mark.parametrize("why", ["down", "cut", "flying", "rejected", "renewed"])
async def test_a_session_the_store_may_lack_stays_hot(why: str) -> None:
    core = Core()
    await core.save("a")
    await core.call("session.end", session_id="a")
    memory = core.memory
    task = None
    if why == "down":
        memory.failure = down
    memory.cut = why == "cut"
    memory.rejected = {"a"} if why == "rejected" else set()
    if why == "flying":
        memory.hold()
    round_ = asyncio.ensure_future(core.writer.write_round())
    if why == "flying":
        await memory.called.wait()
        task = round_
    else:
        await round_
    if why == "renewed":
        core.queue.mark_stale("a", 0.0, 10)
    for _ in range(3):
        pass_time(core, RETENTION_S)
        assert "a" in core.table.sessions
    memory.failure, memory.cut, memory.rejected = None, False, set()
    memory.let_go()
    if task is not None:
        await task
    if why == "rejected":
        await core.turn("a")  # tried again with the next change
    await core.writer.write_round()
    pass_time(core, RETENTION_S)
    assert not core.table.sessions


async def test_many_that_are_due_at_once_are_ended_in_slices() -> None:
    core = Core(reaper=ReaperConfig(grace_s=0))
    count = 3 * SESSIONS_A_SLICE + 7
    for number in range(count):
        await core.save(f"s{number}")
    core.clock.advance(TIMEOUT_S)
    now, ticks = core.clock.live(), 0
    while acts := core.reaper.tick(now):
        assert acts <= SESSIONS_A_SLICE
        ticks += 1
    assert ticks == -(-2 * count // SESSIONS_A_SLICE), "each is suspected, then ended"
    assert core.table.index.by_status == {"ended": count}


async def test_an_undone_end_gives_the_call_its_time_again(tmp_path: Path) -> None:
    """A full disk ends nobody: what was not journaled has not happened."""
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    core = Core(journal=journal)
    await core.save("a")
    pass_time(core, TIMEOUT_S)
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    pass_time(core, GRACE_S)
    session = core.session("a")
    assert (session.ended, session.facts.reaped, session.facts.ended_reason) == (False, False, "")
    assert core.phase("a") is Phase.SUSPECT, "it has its grace again"
    assert "a" in core.table.dirty.marks
    await core.call("session.heartbeat", session_id="a")
    assert core.phase("a") is Phase.LIVE
    disk.error = None
    pass_time(core, TIMEOUT_S)
    pass_time(core, GRACE_S)
    assert session.facts.reaped
    journal.close()


async def test_an_undone_limit_limits_nothing(tmp_path: Path) -> None:
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    core = Core(journal=journal)
    await core.save("a")
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(NotDurableError):
        await core.save("a", max_duration_s=5.0, heartbeat_timeout_s=1.0)
    disk.error = None
    assert core.session("a").facts.max_duration_s is None
    pass_time(core, 10.0)
    assert core.phase("a") is Phase.LIVE
    journal.close()


# -- the daemon's own sleep --------------------------------------------------------------------------------------


class Stop(Exception):  # noqa: N818 - ends the test's loop
    """Enough."""


def scripted_sleep(
    core: Core, monkeypatch: pytest.MonkeyPatch, sleeps: list[float | Callable[[], Any]]
) -> list[float]:
    """Let the reaper run through these: each `sleep` takes so long as is said, or does what is said."""
    asked: list[float] = []

    async def sleep(delay: float) -> None:
        asked.append(delay)
        if not sleeps:
            raise Stop
        step = sleeps.pop(0)
        if callable(step):
            step = step()
        core.clock.advance(delay if step is None else step)

    monkeypatch.setattr(reaper_module.asyncio, "sleep", sleep)
    return asked


async def run(core: Core) -> None:
    with pytest.raises(Stop):
        await core.reaper._run()


async def test_the_time_that_the_daemon_was_suspended_does_not_count_as_silence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core = Core(reaper=ReaperConfig(tick_s=0.1))
    await core.save("a")
    scripted_sleep(core, monkeypatch, [0.1, 3600.0, 0.1, 0.1])
    await run(core)
    assert core.phase("a") is Phase.LIVE
    assert core.clock.stalled_s == pytest.approx(3599.9)
    assert "stalled for 3599.9 s" in caplog.text
    core.clock.advance(TIMEOUT_S)
    core.reaper.tick(core.clock.live())
    assert core.phase("a") is Phase.SUSPECT, "from then on time counts again"


async def test_the_time_of_a_long_commit_does_not_count_as_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hung: the beats of the meantime are still unread."""
    core = Core(reaper=ReaperConfig(tick_s=0.1))
    await core.save("a", heartbeat_timeout_s=100.0)
    await core.save("b", heartbeat_timeout_s=1.0)
    commit = core.commit

    def slow_commit() -> None:
        commit()
        core.clock.advance(120.0)

    core.reaper._commit = slow_commit
    scripted_sleep(core, monkeypatch, [0.1] * 12 + [0.1, 0.1])
    await run(core)
    assert core.phase("b") is Phase.SUSPECT
    assert core.phase("a") is Phase.LIVE


async def test_waiting_input_is_read_before_deadlines_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(reaper=ReaperConfig(tick_s=0.1, grace_s=0))
    await core.save("a", heartbeat_timeout_s=0.15)
    beat = core.begin

    def read_the_beat() -> float:
        beat("session.heartbeat", b'{"session_id":"a"}').result()
        return 0.1

    # asleep in the middle: on waking the reaper's turn may come first, and the beat sent meanwhile after it
    scripted_sleep(core, monkeypatch, [0.1, 10.0, read_the_beat])
    await run(core)
    assert core.phase("a") is Phase.LIVE


async def test_a_little_lateness_is_only_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(reaper=ReaperConfig(tick_s=0.1))
    scripted_sleep(core, monkeypatch, [0.1 + STALL_S / 2])
    await run(core)
    assert core.clock.stalled_s == 0
    assert core.metrics.loop_lag_s == pytest.approx(STALL_S / 2)


async def test_a_full_tick_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(reaper=ReaperConfig(tick_s=0.1, heartbeat_timeout_s=1.0))
    for number in range(SESSIONS_A_SLICE + 1):
        await core.save(f"s{number}")
    core.clock.advance(1.0)
    asked = scripted_sleep(core, monkeypatch, [0.1, reaper_module.SLICE_PAUSE_S, 0.1])
    await run(core)
    assert asked == [0.1, reaper_module.SLICE_PAUSE_S, 0.1, 0.1]
    assert len(core.liveness.suspects) == SESSIONS_A_SLICE + 1


async def test_a_slice_ends_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(reaper=ReaperConfig(tick_s=0.1, heartbeat_timeout_s=1.0))
    for number in range(SESSIONS_A_SLICE):
        await core.save(f"s{number}")
    core.clock.advance(1.0)
    spent_s = 0.0
    step = core.engine.tick

    def slow(now: float, most: int | None = None) -> Verdicts:
        nonlocal spent_s
        spent_s += SLICE_S / 2
        return step(now, most)

    monkeypatch.setattr(core.engine, "tick", slow)
    core.reaper._slices = Slices(SLICE_S, lambda: spent_s)
    assert core.reaper.tick(core.clock.live()) == 2 * SESSIONS_A_STEP
    asked = scripted_sleep(core, monkeypatch, [0.1, reaper_module.SLICE_PAUSE_S, 0.1])
    await run(core)
    assert asked == [0.1, reaper_module.SLICE_PAUSE_S, 0.1, 0.1], "what is left is handled soon"
    assert len(core.liveness.suspects) == SESSIONS_A_SLICE


async def test_a_fault_of_ours_does_not_end_the_watch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core = Core(reaper=ReaperConfig(tick_s=0.1, heartbeat_timeout_s=0.1))
    await core.save("a")
    commit = core.reaper._commit

    def broken() -> None:
        core.reaper._commit = commit
        raise ZeroDivisionError("oops")

    core.reaper._commit = broken
    await core.save("b", heartbeat_timeout_s=0.25)
    scripted_sleep(core, monkeypatch, [0.1, 0.1, 0.1])
    await run(core)
    assert "checking the deadlines failed" in caplog.text
    assert len(core.liveness.suspects) == 2


async def test_it_starts_and_stops() -> None:
    core = Core(reaper=ReaperConfig(tick_s=0.005, heartbeat_timeout_s=0.1))
    await core.save("a")
    core.clock.advance(1.0)
    core.reaper.start()
    while core.phase("a") is Phase.LIVE:
        await asyncio.sleep(0)
    await core.reaper.stop()
    await core.reaper.stop()
