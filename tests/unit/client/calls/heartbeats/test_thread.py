"""Heartbeats from their thread. The test plays the daemon and moves the clock; thread and connection are real.

While a test waits for what the thread sends, the loop is blocked; `turn()` lets its watchdog see it run.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callstate_client.calls.heartbeats import thread as module
from callstate_client.calls.heartbeats.loop_watchdog import LoopHeartbeats
from callstate_client.calls.heartbeats.schedule import LostCallback
from callstate_client.errors import (
    CallstateError,
    ConflictError,
    FencedError,
    MethodNotFoundError,
    SessionEndedError,
    SessionNotFoundError,
    StoreUnavailableError,
)
from callstate_client.transport import heartbeat_batch
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.identity import Identity
from support.blocking_peer import WITHIN_S, Peer, Side

TIMEOUT_S = 0.03
BEAT_S = TIMEOUT_S / 3
STALL_S = 0.04
"""All of the test's clock, but that the loop shows itself four times a stall of the real one."""


class Hand:
    """A clock that is moved by hand, and knows how often the thread has looked at it."""

    def __init__(self) -> None:
        self.at_s = 1000.0
        self.looks = 0
        self.looked = threading.Condition()

    def __call__(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            with self.looked:
                self.looks += 1
                self.looked.notify_all()
        return self.at_s


class Calls:
    """A thread that beats, the daemon's end, and what is told of the calls."""

    def __init__(self, path: Path, worker_id: str | None = "w1") -> None:
        self.peer = Peer(path)
        self.hand = Hand()
        identity = None if worker_id is None else Identity.of(worker_id)
        self.heartbeats = LoopHeartbeats(
            lambda: [Candidate(str(path), "the test")], lambda: identity, STALL_S, self.hand
        )
        self.lost: asyncio.Queue[tuple[str, CallstateError]] = asyncio.Queue()
        self.loser = threading.get_ident()
        self.callbacks: dict[str, LostCallback] = {}

    def add(self, session_id: str) -> None:
        def lost(error: CallstateError) -> None:
            assert threading.get_ident() == self.loser, "in the loop"
            self.lost.put_nowait((session_id, error))

        self.callbacks[session_id] = lost
        self.heartbeats.add(session_id, TIMEOUT_S, lost)

    def discard(self, session_id: str) -> None:
        self.heartbeats.discard(session_id, self.callbacks[session_id])

    def pass_time(self, seconds: float = BEAT_S) -> None:
        """Move the clock on; what is due is sent, unless the loop has not turned for too long."""
        with self.heartbeats._thread._changed:
            self.hand.at_s += seconds
            self.heartbeats._thread._changed.notify()

    async def turn(self) -> None:
        """Let the loop show that it turns."""
        while self.heartbeats._watchdog._last < self.hand.at_s:
            await asyncio.sleep(0)

    def look(self) -> None:
        """Return when the thread has looked whether something is due, and waits again."""
        with self.heartbeats._thread._changed:
            looks = self.hand.looks
            self.heartbeats._thread._changed.notify()
        with self.hand.looked:  # it looks twice each time: for what is due, and whether the loop is stalled
            assert self.hand.looked.wait_for(lambda: self.hand.looks >= looks + 2, WITHIN_S)
        with self.heartbeats._thread._changed:
            return

    def accept(self) -> Side:
        """The thread's next connection, greeted."""
        side = self.known()
        assert method(side.request()) == ("worker.register", {"worker_id": "w1"})
        side.reply({"worker_id": "w1", "drain": False})
        return side

    def known(self) -> Side:
        """The thread's next connection, told who answers."""
        side = self.peer.accept()
        assert side.request()["method"] == "server.info"
        side.reply({"protocol": 1})
        return side

    async def close(self) -> None:
        await self.heartbeats.close()
        self.peer.stop()


def method(request: dict[str, object]) -> tuple[object, object]:
    return request["method"], request["params"]


def heartbeats_of(side: Side) -> list[str]:
    """The ids in the next heartbeat."""
    request = side.request()
    assert request["method"] == "session.heartbeat"
    session_ids: list[str] = request["params"]["session_ids"]
    return session_ids


def asked_why(side: Side) -> str:
    request = side.request()
    assert request["method"] == "session.heartbeat"
    session_id: str = request["params"]["session_id"]
    return session_id


@pytest.fixture
async def calls(short_dir: Path) -> AsyncIterator[Calls]:
    calls = Calls(short_dir / "s")
    yield calls
    await calls.close()


async def test_beats_go_over_a_registered_connection_of_their_own(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time()
    side = calls.accept()
    assert heartbeats_of(side) == ["c1"]
    side.reply({})
    for _ in range(3):
        await calls.turn()
        calls.pass_time()
        assert heartbeats_of(side) == ["c1"]
        side.reply({})


async def test_a_store_without_a_worker_id_is_not_registered(short_dir: Path) -> None:
    calls = Calls(short_dir / "s", worker_id=None)
    calls.add("c1")
    calls.pass_time()
    side = calls.known()
    assert heartbeats_of(side) == ["c1"]
    side.reply({})
    await calls.close()


async def test_a_daemon_that_knows_no_workers_gets_beats_all_the_same(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time()
    side = calls.known()
    side.request()
    side.refuse(MethodNotFoundError("worker.register"))
    assert heartbeats_of(side) == ["c1"]
    side.reply({})


async def test_a_beat_comes_a_third_of_the_timeout_after_the_last_and_soon_with_others(calls: Calls) -> None:
    calls.add("early")
    calls.pass_time(BEAT_S * 0.9)
    calls.add("late")
    calls.look()
    calls.pass_time(BEAT_S * 0.1)
    side = calls.accept()
    assert heartbeats_of(side) == ["early"]
    side.reply({})
    await calls.turn()
    calls.pass_time(BEAT_S * 0.9)
    assert heartbeats_of(side) == ["early", "late"]
    side.reply({})


async def test_calls_that_are_due_soon_beat_together(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time(BEAT_S / 16)
    calls.add("c2")
    calls.pass_time(BEAT_S / 4)
    calls.add("c3")
    calls.pass_time(BEAT_S * 11 / 16)
    side = calls.accept()
    assert heartbeats_of(side) == ["c1", "c2"]
    side.reply({})


async def test_a_call_wakes_the_thread_only_if_it_is_due_before_the_others(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls.add("c1")
    calls.look()
    changed = calls.heartbeats._thread._changed
    wake = changed.notify
    wakes: list[None] = []
    with monkeypatch.context() as patch:
        patch.setattr(changed, "notify", lambda: wakes.append(wake()))
        calls.add("as soon")
        assert not wakes
        calls.heartbeats.add("sooner", TIMEOUT_S / 2, print)
        assert wakes
    calls.pass_time(BEAT_S / 2)
    assert heartbeats_of(calls.accept()) == ["sooner"]


async def test_very_many_are_several_messages(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_batch, "BATCH_SIZE", 2)
    for session_id in ("c1", "c2", "c3"):
        calls.add(session_id)
    calls.pass_time()
    side = calls.accept()
    assert heartbeats_of(side) == ["c1", "c2"]
    side.reply({})
    assert heartbeats_of(side) == ["c3"]
    side.reply({})


# -- a loop that stands still ---------------------------------------------------------------------------------


async def test_heartbeats_stop_while_the_loop_stalls_and_resume_with_it(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time()
    side = calls.accept()
    assert heartbeats_of(side) == ["c1"]
    side.reply({})
    calls.pass_time(STALL_S)  # no turn of the loop since the beginning
    calls.look()
    assert calls.heartbeats._held_back
    calls.discard("c1")  # so what comes next is not it
    calls.add("c2")
    calls.pass_time()
    await calls.turn()
    calls.pass_time()
    assert heartbeats_of(side) == ["c2"], "nothing was sent while it stood still"
    side.reply({})


async def test_a_busy_loop_gets_heartbeats_while_it_does_not_stall(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time()
    side = calls.accept()
    for _ in range(3):  # four beats without a turn of the loop: all within the stall timeout
        assert heartbeats_of(side) == ["c1"]
        side.reply({})
        calls.pass_time()
    assert heartbeats_of(side) == ["c1"]
    side.reply({})
    calls.pass_time()
    calls.look()
    assert calls.heartbeats._held_back


async def test_a_loop_that_resumes_gets_heartbeats_at_once(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time(10 * STALL_S)
    calls.look()
    assert calls.heartbeats._held_back
    await calls.turn()  # which wakes the thread, and nothing else does
    side = calls.accept()
    assert heartbeats_of(side) == ["c1"]
    side.reply({})


# -- calls that take no more ------------------------------------------------------------------------------------


async def test_each_loss_of_a_call_is_reported_with_its_reason(calls: Calls) -> None:
    for session_id in ("missing", "ended", "fenced", "kept"):
        calls.add(session_id)
    calls.pass_time()
    side = calls.accept()
    assert heartbeats_of(side) == ["missing", "ended", "fenced", "kept"]
    side.reply({"missing": ["missing"], "ended": ["ended"], "fenced": ["fenced"]})
    refusals = {
        "missing": SessionNotFoundError("no session"),
        "ended": SessionEndedError("ended", reason="heartbeat_timeout"),
        "fenced": FencedError("fenced", epoch=3, owner="w2"),
    }
    for session_id, error in refusals.items():
        assert asked_why(side) == session_id
        side.refuse(error)
    told = [await calls.lost.get() for _ in range(3)]
    assert [(session_id, type(error)) for session_id, error in told] == [
        (session_id, type(error)) for session_id, error in refusals.items()
    ]
    ended, fenced = told[1][1], told[2][1]
    assert isinstance(ended, SessionEndedError)
    assert isinstance(fenced, FencedError)
    assert (ended.reason, fenced.epoch, fenced.owner) == ("heartbeat_timeout", 3, "w2")
    await calls.turn()
    calls.pass_time()
    assert heartbeats_of(side) == ["kept"], "the others are discarded"
    side.reply({})
    assert calls.lost.empty()


async def test_a_call_found_alive_when_checked_is_not_lost(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time()
    side = calls.accept()
    heartbeats_of(side)
    side.reply({"missing": [], "ended": [], "fenced": ["c1"]})
    assert asked_why(side) == "c1"
    side.reply({})
    await calls.turn()
    calls.pass_time()
    assert heartbeats_of(side) == ["c1"]
    side.reply({})
    assert calls.lost.empty()


async def test_a_call_that_is_held_again_is_not_lost_by_an_earlier_answer(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time()
    side = calls.accept()
    heartbeats_of(side)
    side.reply({"missing": [], "ended": [], "fenced": ["c1"]})
    assert asked_why(side) == "c1"
    calls.discard("c1")
    calls.add("c1")  # claimed again meanwhile
    side.refuse(FencedError("as it was before", epoch=1))
    await calls.turn()
    calls.pass_time()
    assert heartbeats_of(side) == ["c1"]
    side.reply({})
    assert calls.lost.empty()


async def test_a_call_that_is_held_again_is_discarded_only_by_its_new_holder(calls: Calls) -> None:
    calls.add("c1")
    before = calls.callbacks["c1"]
    calls.add("c1")
    calls.heartbeats.discard("c1", before)
    calls.heartbeats.discard("never there", before)
    calls.pass_time()
    side = calls.accept()
    assert heartbeats_of(side) == ["c1"]
    side.reply({})
    calls.discard("c1")
    calls.add("c2")
    await calls.turn()
    calls.pass_time()
    assert heartbeats_of(side) == ["c2"]
    side.reply({})


# -- trouble ----------------------------------------------------------------------------------------------------


async def test_a_connection_that_is_lost_is_made_and_registered_again(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time()
    side = calls.accept()
    assert heartbeats_of(side) == ["c1"]
    side.close()
    calls.look()
    await calls.turn()
    calls.pass_time()
    side = calls.accept()
    assert heartbeats_of(side) == ["c1"]
    side.reply({})


@pytest.mark.parametrize("refused", [False, True])
async def test_it_is_tried_until_there_is_a_daemon_that_knows_us(
    calls: Calls, caplog: pytest.LogCaptureFixture, refused: bool
) -> None:
    if not refused:
        calls.peer.stop()
    calls.add("c1")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            calls.pass_time()
            if refused:
                side = calls.known()
                side.request()
                side.refuse(ConflictError("another live process is registered as 'w1'", owner="w1"))
            calls.look()
            await calls.turn()
    if not refused:
        calls.peer.start()
    calls.pass_time()
    assert heartbeats_of(calls.accept()) == ["c1"]
    told = [record.message for record in caplog.records]
    assert len(told) == 1, "not each time"
    assert ("registered as 'w1'" if refused else "could not send heartbeats for 1 calls") in told[0]


async def test_a_store_that_is_away_does_not_cost_the_connection(calls: Calls) -> None:
    calls.add("c1")
    calls.pass_time()
    side = calls.accept()
    heartbeats_of(side)
    side.refuse(StoreUnavailableError("c9 is in the store, and that is away"))
    calls.look()
    await calls.turn()
    calls.pass_time()
    assert heartbeats_of(side) == ["c1"], "over the same connection"
    side.reply({})
    assert calls.lost.empty()


# -- leaving ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("greeted", [True, False])
async def test_leaving_waits_for_no_reply(calls: Calls, greeted: bool) -> None:
    calls.add("c1")
    calls.pass_time()
    thread = calls.heartbeats._thread._thread
    assert thread is not None
    if greeted:
        side = calls.accept()
        heartbeats_of(side)
    else:
        side = calls.peer.accept()
        side.request()
    await calls.heartbeats.close()
    thread.join(module.REPLY_S / 2)
    assert not thread.is_alive()
    assert side.line() == b"", "it has hung up"
    await calls.heartbeats.close()


async def test_a_thread_without_a_call_waits_and_leaves(calls: Calls) -> None:
    calls.add("c1")
    calls.discard("c1")
    calls.pass_time()
    calls.look()
    thread = calls.heartbeats._thread._thread
    await calls.heartbeats.close()
    assert thread is not None
    thread.join(module.REPLY_S / 2)
    assert not thread.is_alive()
