"""Write-behind: the newest of what is dirty, in bounds, again and again until the store has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from callstate_client.engine.sessions.stored import (
    StoreBrokenError,
    StoreDownError,
    StoreTimeoutError,
)
from callstate_client.engine.sessions.writes import Write
from callstate_client.engine.table.replay import all_dirty
from callstate_client.errors import SessionNotFoundError
from callstate_sidecar.config.schema import StoreConfig
from callstate_sidecar.logs.event_log import event_of
from callstate_sidecar.slices import Slices, in_slices
from callstate_sidecar.stores.backend import WriteResult
from callstate_sidecar.write_behind import flush, store_state
from callstate_sidecar.write_behind import writer as writer_module
from support.core import Core
from support.stores import MemoryBackend, down, refusing


async def busy(sessions: int = 3, **store: Any) -> Core:
    """A core with so many dirty sessions."""
    core = Core(store=StoreConfig(**store))
    for number in range(sessions):
        await core.save(f"s{number}")
    return core


def written(core: Core) -> list[list[str]]:
    return [[write.session_id for write in batch] for batch in core.memory.batches]


async def test_of_many_changes_the_last_state_is_written_once() -> None:
    core = await busy(1)
    for number in range(10):
        await core.turn("s0", str(number))
    await core.writer.write_round()
    await core.writer.write_round()
    assert written(core) == [["s0"]]
    row = core.memory.rows["s0"]
    assert len(json.loads(row.document or b"")["history"]) == 10
    assert row.meta is not None
    assert row.meta.version == core.session("s0").version == core.session("s0").stored_version
    assert row.beat_ms == core.clock.wall_us() // 1000
    assert core.memory.active == {"s0"}


async def test_batches_are_bounded_by_count_and_bytes() -> None:
    core = await busy(5, batch_sessions=2)
    await core.writer.write_round()
    assert written(core) == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    core = await busy(3, batch_bytes=4096)
    for number in range(3):
        await core.turn(f"s{number}", "x" * 5000)
    await core.writer.write_round()
    assert written(core) == [["s0"], ["s1"], ["s2"]]


async def test_a_host_that_never_rests_comes_to_its_beats_all_the_same() -> None:
    """What gets dirty while a round writes is the next round's."""
    core = await busy(2)
    core.clock.advance(15.0)
    real = core.memory.write

    async def write(batch: Any) -> Any:
        await core.turn("s0")
        assert len(core.memory.batches) < 3, "the round never ends"
        return await real(batch)

    core.memory.write = write  # type: ignore[method-assign]
    await core.writer.write_round()
    assert len(core.memory.batches) == 1
    await core.call("session.heartbeat", session_id="s1")
    core.clock.advance(15.0)
    await core.writer.write_round()
    assert core.memory.beats
    assert core.table.dirty.marks.keys() == {"s0"}


@pytest.mark.parametrize("how", [down, refusing])
async def test_nothing_is_given_up_while_the_store_is_away(how: Any) -> None:
    core = await busy(3, batch_sessions=2)
    core.memory.failure = how
    for _ in range(3):
        await core.writer.write_round()
    assert core.memory.attempts == 3, "one a round: the others would fail as well"
    assert list(core.table.dirty.marks) == ["s0", "s1", "s2"]
    assert not core.table.dirty.in_flight
    assert core.writer.store.status == ("down" if how is down else "refusing")
    assert core.writer.store.error
    assert core.metrics.counters["store_failures"] == 3
    core.memory.failure = None
    await core.writer.write_round()
    assert core.memory.versions().keys() == {"s0", "s1", "s2"}
    assert not core.table.dirty.marks
    assert (core.writer.store.status, core.writer.store.error) == ("up", "")


async def test_a_store_that_comes_back_is_noticed_without_a_change() -> None:
    core = await busy(1)
    core.memory.failure = down
    await core.writer.write_round()
    await core.call("session.delete", session_id="s0")
    core.memory.failure = None
    await core.writer.write_round()
    assert core.writer.store.status == "up"
    core.memory.failure = down
    await core.writer._attempt(core.memory.ping())
    core.memory.failure = None
    await core.writer.write_round()
    assert core.writer.store.status == "up"


async def test_a_batch_applied_without_a_reply_is_written_again() -> None:
    core = await busy(2)
    core.memory.cut = True
    await core.writer.write_round()
    assert core.table.dirty.marks.keys() == {"s0", "s1"}
    core.memory.cut = False
    await core.turn("s0")
    await core.writer.write_round()
    assert not core.table.dirty.marks
    assert core.memory.versions() == {name: core.session(name).version for name in ("s0", "s1")}


async def test_a_batch_that_is_called_off_is_dirty_again() -> None:
    core = await busy(2)
    core.memory.hold()
    core.writer.start()
    core.writer._wake.set()
    await core.memory.called.wait()
    assert core.table.dirty.in_flight.keys() == {"s0", "s1"}
    await core.writer.stop()
    assert list(core.table.dirty.marks) == ["s0", "s1"]
    assert not core.table.dirty.in_flight
    await core.writer.stop()


async def test_one_that_the_store_can_not_take_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    core = await busy(3)
    core.memory.rejected = {"s1"}
    await core.writer.write_round()
    assert core.memory.versions().keys() == {"s0", "s2"}
    assert core.session("s1").quarantined == "rejected: too big for this store"
    for _ in range(5):
        await core.turn("s1")
        await core.writer.write_round()
    assert caplog.text.count("refuses session s1") == 1, "said once"
    assert "s1" in core.replayed().sessions, "and the journal has it"
    core.memory.rejected = set()
    await core.turn("s1")
    await core.writer.write_round()
    assert core.memory.versions()["s1"] == core.session("s1").version
    assert core.session("s1").quarantined == ""


async def test_a_refused_session_is_retried_by_backoff_even_if_unchanged() -> None:
    core = await busy(2)
    await core.writer.write_round()
    await core.call("session.delete", session_id="s1")
    await core.turn("s0")
    core.memory.rejected = {"s0", "s1"}
    attempts: list[float] = []
    start_s = core.clock.mono()
    for _ in range(1300):
        before = len(core.memory.batches)
        await core.writer.write_round()
        attempts += [core.clock.mono() - start_s] * sum(map(len, core.memory.batches[before:]))
        core.clock.advance(1.0)
    assert core.table.quarantined.keys() == {"s0", "s1"}
    rests = [later - earlier for earlier, later in pairwise(attempts[::2])]
    assert all(0.5 <= rest <= 301.0 for rest in rests)
    assert 10 <= len(rests) <= 20
    assert rests[-1] >= 150.0
    with pytest.raises(SessionNotFoundError):
        await core.call("session.load", session_id="s1")
    core.memory.rejected = set()
    core.clock.advance(300.0)
    await core.writer.write_round()
    assert not core.table.quarantined
    assert core.memory.versions() == {"s0": core.session("s0").version}
    assert core.memory.rows["s1"].document is None
    assert not core.table.tombstones.pending


async def test_a_deletion_that_is_refused_survives_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    core = await busy(1)
    await core.writer.write_round()
    await core.call("session.delete", session_id="s0")
    core.memory.rejected = {"s0"}
    await core.writer.write_round()
    assert "refuses the deletion of session s0" in caplog.text
    assert await core.writer.flush(None, 0.01) == {"flushed": 0, "unflushed": 1}
    table = core.replayed()
    all_dirty(table, 0.0)
    assert table.tombstones.pending.keys() == {"s0"}
    core.memory.rejected = set()
    again = Core(table=table, backend=core.memory)
    await again.writer.write_round()
    assert core.memory.rows["s0"].document is None


async def test_a_session_created_over_a_refused_deletion_is_written() -> None:
    core = await busy(1)
    await core.writer.write_round()
    await core.call("session.delete", session_id="s0")
    core.memory.rejected = {"s0"}
    await core.writer.write_round()
    core.memory.rejected = set()
    saved = await core.save("s0")
    assert not core.table.quarantined
    await core.writer.write_round()
    assert core.memory.versions() == {"s0": saved["version"]}


# -- batches that are not answered --------------------------------------------------------------------------------


def slow_for(core: Core, *culprits: str, error: type[Exception] = StoreTimeoutError) -> list[list[str]]:
    """The store does not answer a batch with one of these in it; gives all batches that it was sent."""
    sent: list[list[str]] = []
    real = core.memory.write

    async def write(batch: Sequence[Write]) -> list[WriteResult]:
        sent.append([each.session_id for each in batch])
        if any(each.session_id in culprits for each in batch):
            raise error("Timeout reading from socket")
        return await real(batch)

    core.memory.write = write  # type: ignore[method-assign]
    return sent


async def test_a_session_that_is_not_answered_is_found_and_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    core = await busy(21)
    sent = slow_for(core, "s7")
    await core.writer.write_round()
    assert core.memory.versions().keys() == {f"s{number}" for number in range(21) if number != 7}
    assert core.table.quarantined.keys() == {"s7"}
    assert core.session("s7").quarantined == "unanswered: Timeout reading from socket"
    assert sum("s7" in batch for batch in sent) <= 6, "halved each time"
    assert core.writer.store.status == "up"
    assert "refuses session s7 (unanswered" in caplog.text
    before = len(sent)
    for name in ("s7", "s8", "s9"):
        await core.turn(name)
    await core.writer.write_round()
    assert sent[before:] == [["s8", "s9"]], "batches are whole again, and it waits"
    core.clock.advance(1.0)
    await core.turn("s10")
    await core.writer.write_round()
    assert sent[before + 1 :] == [["s10"], ["s7"]], "tried again alone"


async def test_the_largest_is_suspected_first() -> None:
    core = await busy(20)
    await core.save("big", session={"recovery_data": {"blob": "x" * 100_000}})
    for number in range(20):
        await core.turn(f"s{number}")
    core.table.dirty.marks.move_to_end("big", last=False)
    sent = slow_for(core, "big")
    await core.writer.write_round()
    assert [len(batch) for batch in sent] == [21, 10, 10, 1]
    assert core.table.quarantined.keys() == {"big"}


async def test_it_is_written_once_the_store_is_quick_enough() -> None:
    core = await busy(2)
    real = core.memory.write
    slow_for(core, "s0")
    await core.writer.write_round()
    core.memory.write = real  # type: ignore[method-assign]
    core.clock.advance(1.0)
    await core.writer.write_round()
    assert not core.table.quarantined
    assert core.memory.versions().keys() == {"s0", "s1"}


async def test_no_session_is_blamed_for_a_store_that_answers_nothing() -> None:
    core = await busy(5)
    core.memory.failure = lambda: StoreTimeoutError("Timeout reading from socket")
    for _ in range(5):
        await core.writer.write_round()
    assert not core.table.quarantined
    assert list(core.table.dirty.marks) == [f"s{number}" for number in range(5)]
    assert core.writer.store.status == "down"


async def test_a_store_that_answers_only_pings_is_refusing() -> None:
    """Such as over a network that loses all but small packets: it is not each session's fault."""
    core = await busy(20)
    real = core.memory.write
    slow_for(core, *(f"s{number}" for number in range(20)))
    for _ in range(30):
        await core.writer.write_round()
        core.clock.advance(1.0)
    assert core.writer.store.status == "refusing"
    assert "answers PING" in core.writer.store.error
    assert len(core.table.quarantined) == 2
    assert core.table.dirty.sessions >= 18
    core.memory.write = real  # type: ignore[method-assign]
    core.clock.advance(300.0)
    await core.writer.write_round()
    assert len(core.memory.versions()) == 20
    assert core.writer.store.status == "up"


async def test_a_session_whose_write_met_a_stall_of_the_store_is_not_blamed() -> None:
    core = await busy(1)
    real = core.memory.write

    async def stalled(batch: Sequence[Write]) -> list[WriteResult]:
        core.memory.write = real  # type: ignore[method-assign]
        raise StoreTimeoutError("Timeout reading from socket")

    core.memory.write = stalled  # type: ignore[method-assign]
    await core.writer.write_round()
    assert not core.table.quarantined
    assert core.memory.versions().keys() == {"s0"}, "tried again at once"


async def test_a_session_that_breaks_every_connection_is_found_too() -> None:
    """Redis hangs up on a command that is larger than it allows."""
    core = await busy(5)
    slow_for(core, "s2", error=StoreDownError)
    await core.writer.write_round()
    assert not core.table.quarantined, "once may be chance"
    await core.writer.write_round()
    assert core.table.quarantined.keys() == {"s2"}
    assert len(core.memory.versions()) == 4


async def test_a_batch_whose_connection_had_ended_is_sent_again_at_once() -> None:
    """The store is up, and nobody is told otherwise: reads would be refused meanwhile."""
    core = await busy(3)
    real, states = core.memory.write, list[str]()

    async def ended(batch: Sequence[Write]) -> list[WriteResult]:
        core.memory.write = real  # type: ignore[method-assign]
        raise StoreBrokenError("Broken pipe")

    async def ping() -> None:
        states.append(core.writer.store.status)

    core.memory.write, core.memory.ping = ended, ping  # type: ignore[method-assign]
    await core.writer.write_round()
    assert core.memory.versions().keys() == {"s0", "s1", "s2"}
    assert states == ["up"]
    assert core.writer.store.failures == 0
    assert not core.metrics.counters.get("store_failures")


async def test_a_store_that_breaks_each_connection_and_answers_no_ping_is_down() -> None:
    core = await busy(1)
    slow_for(core, "s0", error=StoreBrokenError)
    core.memory.failure = down
    await core.writer.write_round()
    assert core.writer.store.status == "down"
    assert core.writer.store.failures == 1


async def test_a_session_that_breaks_the_connection_of_the_repeated_batch_too_is_found() -> None:
    core = await busy(5)
    slow_for(core, "s2", error=StoreBrokenError)
    await core.writer.write_round()
    assert not core.table.quarantined, (
        "a bad line breaks two, and the store counts as down until the backoff is over"
    )
    assert core.writer.store.failures == 1
    await core.writer.write_round()
    assert core.table.quarantined.keys() == {"s2"}
    assert len(core.memory.versions()) == 4
    assert core.writer.store.status == "up"


async def test_a_session_whose_write_meets_a_bug_is_found_and_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    core = await busy(20)
    real = core.memory.write
    slow_for(core, "s7", error=TypeError)
    await core.writer.write_round()
    assert core.memory.versions().keys() == {f"s{number}" for number in range(20)} - {"s7"}
    refusal = core.table.quarantined.get("s7")
    assert refusal is not None
    assert refusal.why == "unwritable: TypeError, a bug in callstated"
    assert core.writer.store.status == "up"
    for _ in range(3):
        core.clock.advance(refusal.due - core.clock.mono())
        await core.writer.write_round()
    assert refusal.attempts == 4
    lines = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [event_of(line) for line in lines] == ["store_write_failed", "store_refused"]
    assert all(line.exc_info for line in lines)
    core.memory.write = real  # type: ignore[method-assign]
    core.clock.advance(refusal.due - core.clock.mono())
    await core.writer.write_round()
    assert "s7" in core.memory.versions()
    assert not core.table.quarantined


async def test_a_bug_that_all_writes_meet_is_no_sessions_fault() -> None:
    core = await busy(20)
    slow_for(core, *(f"s{number}" for number in range(20)), error=TypeError)
    for _ in range(30):
        await core.writer.write_round()
        core.clock.advance(1.0)
    assert core.writer.store.status == "refusing"
    assert "a bug in callstated" in core.writer.store.error
    assert len(core.table.quarantined) == 2


async def test_a_stop_while_a_culprit_is_looked_for_leaves_all_dirty() -> None:
    core = await busy(2)
    slow_for(core, "s0")
    core.memory.hold()
    core.writer.start()
    core.writer._wake.set()
    await core.memory.called.wait()  # the ping
    await core.writer.stop()
    assert list(core.table.dirty.marks) == ["s0", "s1"]
    assert not core.table.dirty.in_flight


async def test_one_that_somebody_else_has_taken_over_stays_here() -> None:
    core = await busy(1)
    await core.writer.write_round()
    row = core.memory.rows["s0"]
    assert row.meta is not None
    row.meta.host, row.meta.epoch = "other", 1 << 20
    await core.turn("s0")
    await core.writer.write_round()
    (copy,) = core.table.set_aside.of("s0")
    assert (copy.host, copy.state.count) == ("other", 1)
    assert "s0" not in core.table.sessions
    assert row.meta.host == "other"


async def test_deletions_leave_tombstones() -> None:
    core = await busy(2)
    await core.writer.write_round()
    await core.call("session.delete", session_id="s0")
    await core.writer.write_round()
    row = core.memory.rows["s0"]
    assert row.document is None
    assert row.meta is not None
    assert row.meta.deleted
    assert core.memory.active == {"s1"}
    assert not core.table.tombstones.pending


async def test_born_and_deleted_within_the_interval_is_never_written() -> None:
    core = await busy(1)
    await core.call("session.delete", session_id="s0")
    await core.writer.write_round()
    assert core.memory.attempts == 0


async def test_beats_go_together_now_and_then() -> None:
    core = await busy(3)
    await core.writer.write_round()
    core.clock.advance(10.0)
    for name in ("s0", "s1"):
        await core.call("session.heartbeat", session_id=name)
    await core.writer.write_round()
    assert not core.memory.beats
    core.clock.advance(5.0)
    await core.call("session.heartbeat", session_id="s1")
    await core.writer.write_round()
    at_ms = core.clock.wall_us() // 1000
    assert core.memory.beats == [{"s0": at_ms - 5000, "s1": at_ms}]
    core.clock.advance(15.0)
    await core.writer.write_round()
    assert len(core.memory.beats) == 1, "no heartbeat has arrived since"


async def test_beats_that_the_store_missed_go_later_the_newer_ones_winning() -> None:
    core = await busy(2)
    await core.writer.write_round()
    for name in ("s0", "s1"):
        await core.call("session.heartbeat", session_id=name)
    first_ms = core.clock.wall_us() // 1000
    core.memory.failure = down
    core.clock.advance(15.0)
    await core.writer.write_round()
    await core.call("session.heartbeat", session_id="s1")
    core.memory.failure = None
    core.clock.advance(15.0)
    await core.writer.write_round()
    assert core.memory.beats == [{"s0": first_ms, "s1": first_ms + 15_000}]


async def test_beats_of_many_are_written_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "BEATS_A_CALL", 2)
    core = await busy(5)
    await core.writer.write_round()
    for number in range(5):
        await core.call("session.heartbeat", session_id=f"s{number}")
    core.clock.advance(15.0)
    await core.writer.write_round()
    assert [len(beats) for beats in core.memory.beats] == [2, 2, 1]
    assert not core.table.unflushed_beats


async def test_heartbeats_do_not_make_sessions_dirty() -> None:
    core = await busy(1)
    await core.writer.write_round()
    for _ in range(100):
        await core.call("session.heartbeat", session_id="s0")
    assert not core.table.dirty.marks


async def test_nothing_is_written_that_the_journal_has_not_taken() -> None:
    core = await busy(1)
    order: list[str] = []
    core.writer._batches._commit = core.writer._batches._outcomes._commit = lambda: order.append("barrier")
    real = core.memory.write

    async def write(batch: Any) -> Any:
        order.append("write")
        return await real(batch)

    core.memory.write = write  # type: ignore[method-assign]
    await core.writer.write_round()
    assert order[:2] == ["barrier", "barrier"], "also what is on its way"
    assert order[-3:-1] == ["write", "barrier"], "what a rollback could undo"
    assert order[-1] == "barrier", "deletions that arrived"


async def test_a_fault_of_ours_does_not_end_the_writing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_state, "BACKOFF_FIRST_S", 0.001)
    core = await busy(1)
    core.memory.script.append(lambda: ZeroDivisionError("oops"))
    core.writer.start()
    assert await core.writer.flush(None, 20.0) == {"flushed": 1, "unflushed": 0}
    await core.writer.stop()
    assert "writing to the store failed" in caplog.text


async def test_a_dirty_session_counts_once_in_flight_or_not() -> None:
    core = await busy(3)
    core.clock.advance(2.0)
    core.memory.hold()
    writing = asyncio.ensure_future(core.writer.write_round())
    await core.memory.called.wait()
    await core.turn("s0")
    assert (core.table.dirty.sessions, core.table.dirty.oldest) == (3, core.clock.mono() - 2.0)
    core.memory.let_go()
    await writing
    assert (core.table.dirty.sessions, core.table.dirty.oldest) == (1, core.clock.mono())


# -- the barrier -------------------------------------------------------------------------------------------------


async def test_flush_waits_for_the_version_that_was_dirty_then() -> None:
    """A newer one being on its way is not enough."""
    core = await busy(1)
    real = core.memory.write
    begun, gates = [asyncio.Event(), asyncio.Event()], [asyncio.Event(), asyncio.Event()]
    batches: list[Any] = []

    async def write(batch: Any) -> Any:
        batches.append(batch)
        begun[len(batches) - 1].set()
        await gates[len(batches) - 1].wait()
        return await real(batch)

    core.memory.write = write  # type: ignore[method-assign]
    core.writer.start()
    first = asyncio.ensure_future(core.writer.flush(None, 20.0))
    await begun[0].wait()
    await core.turn("s0")
    second = asyncio.ensure_future(core.writer.flush(None, 20.0))
    await asyncio.sleep(0)
    await core.turn("s0")
    gates[0].set()
    assert await first == {"flushed": 1, "unflushed": 0}
    await begun[1].wait()
    assert not second.done()
    core.writer._barrier.signal()  # something else has come along
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done()
    gates[1].set()
    assert await second == {"flushed": 1, "unflushed": 0}
    await core.writer.stop()


async def test_flush_of_some_does_not_wait_for_the_others() -> None:
    core = await busy(2, batch_sessions=1)
    core.writer.start()
    real = core.memory.write
    gate = asyncio.Event()

    async def write(batch: Any) -> Any:
        if batch[0].session_id == "s1":
            await gate.wait()
        return await real(batch)

    core.memory.write = write  # type: ignore[method-assign]
    assert await core.writer.flush(["s0", "unknown"], 20.0) == {"flushed": 2, "unflushed": 0}
    assert "s1" not in core.memory.rows
    gate.set()
    await core.writer.stop()


async def test_flush_waits_for_deletions() -> None:
    core = await busy(1)
    await core.writer.write_round()
    await core.call("session.delete", session_id="s0")
    core.writer.start()
    assert await core.writer.flush(None, 20.0) == {"flushed": 1, "unflushed": 0}
    assert core.memory.rows["s0"].document is None
    await core.writer.stop()


async def test_flush_does_not_wait_for_what_the_store_will_never_take() -> None:
    core = await busy(3)
    core.memory.rejected = {"s1"}
    core.writer.start()
    assert await core.writer.flush(None, None) == {"flushed": 2, "unflushed": 1}
    assert await core.writer.flush(["s1"], None) == {"flushed": 0, "unflushed": 1}
    await core.writer.stop()


async def test_flush_counts_what_the_store_refused_before() -> None:
    core = await busy(2)
    core.memory.rejected = {"s1"}
    await core.writer.write_round()
    core.writer.start()
    assert await core.writer.flush(None, None) == {"flushed": 0, "unflushed": 1}
    await core.turn("s0")
    assert await core.writer.flush(None, None) == {"flushed": 1, "unflushed": 1}
    core.memory.rejected = set()
    await core.turn("s1")
    assert await core.writer.flush(None, None) == {"flushed": 1, "unflushed": 0}
    await core.writer.stop()


async def test_a_flush_of_many_lets_other_requests_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush, "in_slices", lambda items: in_slices(items, Slices(0.0)))
    core = await busy(1)
    core.writer.start()
    await core.writer.flush(None, None)
    flushing = asyncio.ensure_future(core.writer.flush([f"s{number}" for number in range(9)], None))
    turns = 0
    while not flushing.done():
        await asyncio.sleep(0)
        turns += 1
    assert flushing.result() == {"flushed": 9, "unflushed": 0}
    assert turns > 16, "nine for the waiting, nine for the counting"
    await core.writer.stop()


async def test_who_waits_for_a_store_that_is_away_does_not_hurry_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_state, "BACKOFF_FIRST_S", 100.0)
    monkeypatch.setattr(store_state, "BACKOFF_MAX_S", 100.0)
    core = await busy(2)
    core.memory.failure = down
    core.writer.start()
    assert await core.writer.flush(None, 0.05) == {"flushed": 0, "unflushed": 2}
    assert 1 <= core.memory.attempts <= 2, "one when it is asked for, the next after the store's rest"
    core.memory.failure = None
    assert await core.writer.flush(None, 20.0) == {"flushed": 2, "unflushed": 0}, "asking anew tries at once"
    await core.writer.stop()


async def test_the_rests_of_a_store_that_is_away_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    core = await busy(1)
    core.memory.failure = down
    real = asyncio.timeout

    def timeout(delay: float | None) -> asyncio.Timeout:
        rests.append(delay or 0.0)
        return real(0)

    monkeypatch.setattr(flush.asyncio, "timeout", timeout)
    core.writer.start()
    while core.memory.attempts < 12:
        await asyncio.sleep(0)
    await core.writer.stop()
    assert rests[0] == 0.2
    for number, rest in enumerate(rests[1:12]):
        highest = min(5.0, 0.1 * 2**number)
        assert highest / 2 <= rest <= highest
    assert len(set(rests)) == len(rests)


def test_the_store_of_these_tests_is_one() -> None:
    """It has every call of the contract, by its name."""
    from callstate_sidecar.stores.backend import Backend

    calls = {name for name in vars(Backend) if not name.startswith("_")}
    assert calls <= set(dir(MemoryBackend()))


async def test_a_store_that_lost_everything_is_given_everything_hot_again() -> None:
    core = await busy(3)
    await core.call("session.end", session_id="s2")
    await core.writer.write_round()
    core.memory.rows.clear()
    core.memory.data_losses += 1
    session = core.session("s2")
    assert core.table.is_stored(session)
    await core.writer.write_round()
    assert not core.table.is_stored(session), "it stays hot until the store has it again"
    await core.writer.write_round()
    assert core.memory.versions().keys() == {"s0", "s1", "s2"}
    assert core.table.is_stored(session)
    assert core.metrics.counters["store_repairs"] == 1
    await core.writer.write_round()
    assert len(core.memory.batches) == 2


async def test_a_flush_looks_whether_the_store_is_there() -> None:
    core = await busy(2)
    await core.writer.write_round()
    core.memory.rows.clear()
    core.memory.data_losses += 1
    core.writer.start()
    assert await core.writer.flush(None, 5.0) == {"flushed": 2, "unflushed": 0}
    await core.writer.stop()
    assert core.memory.versions().keys() == {"s0", "s1"}


@pytest.mark.parametrize("lookup_s", [0.0, 3.0, 9.0])
async def test_a_flush_has_one_deadline(lookup_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to see whether the store has lost data is not added to it."""
    core, given = await busy(1), list[float | None]()
    wait = core.writer._barrier.wait

    async def look() -> None:
        core.clock.advance(lookup_s)

    async def waited(session_ids: Any, timeout_s: float | None, **options: Any) -> dict[str, int]:
        given.append(timeout_s)
        return await wait(session_ids, 0.0, **options)

    monkeypatch.setattr(core.memory, "check_for_loss", look)
    monkeypatch.setattr(core.writer._barrier, "wait", waited)
    await core.writer.flush(None, 5.0)
    await core.writer.flush_before_stop(5.0)
    await core.writer.flush(None, None)
    assert given == [max(0.0, 5.0 - lookup_s)] * 2 + [None]
