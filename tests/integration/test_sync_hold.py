"""`hold()` of the blocking front against a real daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from callstate_client import (
    BeforeSendError,
    ConflictError,
    ConnectionLostError,
    FencedError,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
    StoreClosedError,
    Turn,
    sync,
)
from support.daemon import Daemon

pytestmark = pytest.mark.system

WITHIN_S = 30.0


class HangupError(Exception):
    reason = "caller_hangup"


@pytest.fixture
def store(daemon: Daemon) -> Iterator[sync.Store]:
    with sync.connect(daemon.socket, worker_id="w1") as store:
        yield store


@pytest.fixture
def other(daemon: Daemon) -> Iterator[sync.Store]:
    with sync.connect(daemon.socket, worker_id="w2") as other:
        yield other


@pytest.fixture
def operator(daemon: Daemon) -> Iterator[sync.Store]:
    with sync.connect(daemon.socket) as operator:
        yield operator


def a_call(session_id: str = "c1") -> SessionState:
    return SessionState(session_id, provider="sip", status="active")


def test_a_call_is_made_changed_and_ended(store: sync.Store, operator: sync.Store) -> None:
    with store.hold(a_call(), labels={"app": "sales"}, heartbeat_timeout_s=7.0, max_duration_s=600.0) as call:
        assert call.add_turn("user", "Hello?", 900) == call.version
        call.add_turn("agent", "Good morning", extra={"model": "x"})
        call.amend_last_turn(content="Good mor", role="agent")
        call.record_interruption()
        call.update(status="on_hold", extra={"queue": 3})
        call.update(labels={"app": "support"}, to="+15550100")
        call.beat()
        record = operator.get("c1")
        assert (record.owner, record.epoch, record.version) == ("w1", call.epoch, call.version)
        [listed] = operator.sessions()
        assert (listed.labels, listed.heartbeat_timeout_s) == ({"app": "support"}, 7.0)
        assert listed.max_duration_s == 600.0
        seen, kept = call.state.copy(), record.state.copy()
        seen.updated_at = kept.updated_at
        assert seen == kept
        assert [turn.content for turn in kept.history] == ["Hello?", "Good mor"]
    record = operator.get("c1")
    assert (record.state.status, record.ended_reason, call.ended, call.lost) == ("ended", "completed", True, None)
    with pytest.raises(StoreClosedError):
        call.add_turn("user", "late")


def test_a_call_is_claimed_by_its_id(store: sync.Store, other: sync.Store) -> None:
    with pytest.raises(SessionNotFoundError), store.hold("c1"):
        pass
    other.save(a_call())
    with pytest.raises(ConflictError), store.hold("c1"):
        pass
    with store.hold("c1", steal=True, heartbeat_timeout_s=5.0) as call:
        [record] = other.sessions()
        assert (record.owner, record.epoch, record.heartbeat_timeout_s) == ("w1", call.epoch, 5.0)
        with pytest.raises(FencedError):
            other.add_turn("c1", "user", "late")
        call.end("transferred", {"to": "desk"})
    record = other.get("c1")
    assert (record.ended_reason, record.ended_detail) == ("transferred", {"to": "desk"})
    with pytest.raises(SessionEndedError), store.hold("c1"):
        pass


def test_an_id_that_is_taken(store: sync.Store, operator: sync.Store) -> None:
    operator.save(a_call())
    with pytest.raises(ConflictError, match="held by no worker"), store.hold(a_call()):
        pass
    with store.hold(a_call(), resume=True) as call:
        assert operator.get("c1").owner == "w1"
        assert call.epoch == 1
    with pytest.raises(ConflictError, match="completed"), store.hold(a_call()):
        pass
    with store.hold(a_call(), replace_ended=True) as call:
        assert call.epoch == 2
        call.add_turn("user", "anew")


def test_an_error_releases_it_and_one_of_end_on_ends_it(store: sync.Store, other: sync.Store) -> None:
    with pytest.raises(ZeroDivisionError), store.hold(a_call(), end_on=HangupError):
        raise ZeroDivisionError
    record = other.claim_next()
    assert record is not None
    assert record.state.id == "c1"
    for number, error in enumerate([HangupError(), ExceptionGroup("both", [ValueError(), HangupError()])]):
        with pytest.raises(type(error)), store.hold(a_call(f"e{number}"), end_on=[HangupError]):
            raise error
        assert other.get(f"e{number}").ended_reason == "caller_hangup"


@pytest.mark.parametrize("worker_id", ["w9", None])
def test_a_stolen_call_is_lost_with_the_next_request(
    daemon: Daemon, other: sync.Store, worker_id: str | None
) -> None:
    with sync.connect(daemon.socket, worker_id=worker_id) as store:
        asked: list[Callable[[sync.HeldCall], object]] = [
            lambda call: call.add_turn("user", "late"),
            lambda call: call.update(to="+1"),
            lambda call: call.update(labels={"a": "b"}),
            lambda call: call.end(),
            lambda call: call.beat(),
        ]
        for number, ask in enumerate(asked):
            session_id = f"c{number}"
            with pytest.raises(FencedError), store.hold(a_call(session_id), beat="manual") as call:
                assert other.claim(session_id, steal=True).owner == "w2"
                assert call.lost is None
                with pytest.raises(FencedError):
                    ask(call)
                assert isinstance(call.lost, FencedError)
            record = other.get(session_id)
            assert (record.owner, record.state.status, record.turn_count) == ("w2", "active", 0)


@pytest.mark.parametrize("known", [True, False], ids=["known", "not known"])
def test_a_call_that_somebody_else_ended_is_left_without_an_error(
    store: sync.Store, other: sync.Store, operator: sync.Store, known: bool
) -> None:
    with store.hold(a_call(), beat="manual") as call:
        operator.end("c1", "by_the_operator")
        if known:
            with pytest.raises(SessionEndedError):
                call.beat()
    assert isinstance(call.lost, SessionEndedError) is known
    with store.hold(a_call("c2"), beat="manual") as call:
        operator.end("c2", "by_the_operator")
        if known:
            with pytest.raises(SessionEndedError):
                call.beat()
        call.release()
    assert isinstance(call.lost, SessionEndedError)
    with store.hold(a_call("c3"), beat="manual") as call:
        other.claim("c3", steal=True)
        call.release()
    assert isinstance(call.lost, FencedError)
    assert operator.get("c3").owner == "w2"
    with store.hold(a_call("c4"), beat="manual") as call:
        operator.delete("c4")
        call.release()
    assert isinstance(call.lost, SessionNotFoundError)


def test_a_thread_sends_the_heartbeats_of_all_calls_and_learns_that_one_is_lost(
    store: sync.Store, other: sync.Store
) -> None:
    with store.hold(a_call("c1"), heartbeat_timeout_s=0.3) as one:
        with pytest.raises(FencedError), store.hold(a_call("c2"), heartbeat_timeout_s=0.3) as two:
            threads = [thread.name for thread in threading.enumerate()]
            assert threads.count("callstate-heartbeats") == 1
            other.claim("c2", steal=True)
            before = other.get("c1").state.updated_at
            while two.lost is None or other.get("c1").state.updated_at == before:
                other.update_heartbeat("c2")
        assert one.lost is None
        assert other.get("c2").owner == "w2"
    assert other.get("c1").ended_reason == "completed"


def test_heartbeats_follow_a_timeout_that_an_operator_sets(store: sync.Store, operator: sync.Store) -> None:
    with store.hold(a_call(), heartbeat_timeout_s=1.0) as call:
        operator.update("c1", heartbeat_timeout_s=0.3)
        seen = {operator.get("c1").state.updated_at}
        while len(seen) < 12:
            seen.add(operator.get("c1").state.updated_at)
        assert call.lost is None
        assert not list(operator.sessions(state="suspect"))


def test_a_second_hold_of_the_same_call(daemon: Daemon, store: sync.Store, other: sync.Store) -> None:
    with store.hold(a_call()):
        with pytest.raises(ConflictError), store.hold("c1", steal=True):
            pass
        with pytest.raises(ConflictError), other.hold("c1"):
            pass
    block = store.hold(a_call("c2"))
    with block, pytest.raises(RuntimeError):
        block.__enter__()
    with pytest.raises(SessionEndedError), block:
        pass


def test_each_thread_holds_its_own(store: sync.Store, operator: sync.Store) -> None:
    both = threading.Barrier(2, timeout=WITHIN_S)

    def work(session_id: str) -> None:
        with store.hold(a_call(session_id)) as call:
            both.wait()
            for number in range(20):
                call.add_turn("user", f"{session_id} {number}")
            both.wait()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, ["c1", "c2"]))
    for session_id in ("c1", "c2"):
        record = operator.get(session_id)
        assert (record.ended_reason, record.turn_count) == ("completed", 20)


def test_a_held_call_outlives_a_restart_of_the_daemon(daemon: Daemon, store: sync.Store) -> None:
    with store.hold(a_call()) as call:
        call.add_turn("user", "before")
        daemon.kill()
        daemon.start()
        call.add_turn("user", "after")
        assert [turn.content for turn in store.load("c1").history] == ["before", "after"]


WORKER = """
import sys, time
from callstate_client import SessionState, sync
with sync.connect(sys.argv[1]) as store, store.hold(SessionState("c1", provider="sip", status="active")):
    print("held", flush=True)
    time.sleep(3600)
"""


def test_a_killed_process_leaves_its_calls_to_be_recovered_at_once(daemon: Daemon, other: sync.Store) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(daemon.socket)], stdout=subprocess.PIPE)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        assert other.claim_next() is None
        worker.kill()
        worker.wait()
        while not (suspects := [*other.sessions(state="suspect")]):  # the daemon is told of it by the kernel
            pass
        assert suspects[0].state.id == "c1"
        with other.hold("c1") as call:
            assert call.epoch == 1
    finally:
        worker.kill()
        worker.communicate()


def test_in_a_forked_child_the_call_is_lost(store: sync.Store) -> None:
    with store.hold(a_call()) as call:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                assert isinstance(call.lost, ConnectionLostError)
                with pytest.raises(ConnectionLostError):
                    call.add_turn("user", "x")
                call.leave(None)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        call.add_turn("user", "still here")
        assert call.lost is None


def test_closing_the_store_ends_the_beats(daemon: Daemon) -> None:
    store = sync.connect(daemon.socket, worker_id="w1")
    with pytest.raises(StoreClosedError), store.hold(a_call()):
        store.close()
    assert "callstate-heartbeats" not in [thread.name for thread in threading.enumerate()]


def test_a_later_block_takes_a_call_over_from_an_earlier_one(store: sync.Store) -> None:
    with store.hold(a_call(), labels={"app": "sales"}) as earlier:
        earlier.add_turn("user", "hello")
        with store.hold(a_call(), resume=True) as later:
            assert isinstance(earlier.lost, FencedError)
            assert [turn.content for turn in later.state.history] == ["hello"]
            assert later.labels == {"app": "sales"}
            with pytest.raises(StoreClosedError):
                earlier.add_turn("user", "too late")
            earlier.leave(None)  # does not end it
            later.update(labels={"app": "support"})
            assert later.labels == {"app": "support"}
            assert store.get("c1").owner == "w1"
    record = store.get("c1")
    assert (record.ended_reason, record.turn_count) == ("completed", 1)


def test_the_error_says_why_a_call_is_not_resumed(store: sync.Store, other: sync.Store) -> None:
    with store.hold(a_call()):
        with pytest.raises(ConflictError, match=r"c1 is held by w1, which is alive.*steal=True") as live:
            other.hold(a_call(), resume=True).__enter__()
        assert live.value.owner == "w1"
    with pytest.raises(ConflictError, match=r"c1 has ended at \S+ \(completed\).*replace_ended=True") as ended:
        other.hold(a_call(), resume=True).__enter__()
    assert (ended.value.status, ended.value.reason) == ("ended", "completed")
    with pytest.raises(SessionEndedError, match=r"c1 has ended at \S+ \(completed\)"):
        other.hold("c1").__enter__()


def test_a_new_call_is_active_unless_its_status_is_given(store: sync.Store) -> None:
    with store.hold(SessionState("c1")) as call:
        assert (call.state.status, store.load("c1").status) == ("active", "active")
    with store.hold(SessionState("c2", status="pending")) as call:
        assert (call.state.status, store.load("c2").status) == ("pending", "pending")


def test_response_times_are_counted(store: sync.Store) -> None:
    with store.hold(a_call()) as call:
        call.add_turn("agent", "hello", 400, response_ms=400)
        store.add_turn("c1", "agent", "there", response_ms=201)
        metrics = store.load("c1").metrics
        assert (metrics.first_response_ms, metrics.average_response_ms) == (400, 300)
        assert call.state.metrics.average_response_ms == 400, "what the store's method does is not shown"
        assert call.state.history[0].response_ms == 400


def test_turns_are_redacted_before_they_are_sent(daemon: Daemon, operator: sync.Store) -> None:
    seen = []

    def before_send(session_id: str, turn: Turn) -> Turn:
        seen.append((session_id, turn.role, turn.content))
        if turn.content == "fail":
            raise ValueError("fail")
        turn.content = turn.content.replace("4111", "[card]")
        return turn

    with sync.connect(daemon.socket, worker_id="w1", before_send=before_send) as store:
        with store.hold(SessionState("c1", history=[Turn("system", "0 4111")])) as call:
            call.add_turn("user", "1 4111")
            call.amend_last_turn(content="2 4111")
            store.add_turn("c1", "user", "3 4111")
            store.amend_turn("c1", 1, content="4 4111", role="user")
            for change in (
                lambda: call.add_turn("user", "fail"),
                lambda: call.amend_last_turn(content="fail"),
                lambda: store.add_turn("c1", "user", "fail"),
                lambda: store.amend_last_turn("c1", content="fail"),
                lambda: store.save(SessionState("c2", history=[Turn("user", "fail")])),
            ):
                with pytest.raises(BeforeSendError):
                    change()
            kept = [turn.content for turn in operator.load("c1").history]
            assert kept == ["0 [card]", "4 [card]", "3 [card]"]
            assert [turn.content for turn in call.state.history] == ["0 [card]", "2 [card]"]
        store.save(SessionState("c2", history=[Turn("user", "5 4111")]))
        assert operator.load("c2").history[0].content == "5 [card]"
    assert seen[1:3] == [("c1", "user", "1 4111"), ("c1", "user", "2 4111")]
