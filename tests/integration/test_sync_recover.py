"""`recover()` of the blocking front against a real daemon."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from callstate_client import SessionState, ShuttingDownError, StoreClosedError, sync
from callstate_client.calls.recovery import retries
from callstate_client.sync.held_call import HeldCall
from callstate_client.sync.session_api import SessionApi
from callstate_client.transport.backoff import Delays
from support.daemon import Daemon

pytestmark = pytest.mark.system

WITHIN_S = 30.0
POLL_S = 0.01


class HangupError(Exception):
    reason = "caller_hangup"


@pytest.fixture
def store(daemon: Daemon) -> Iterator[sync.Store]:
    with sync.connect(daemon.socket, worker_id="w1") as store:
        yield store


@pytest.fixture
def gone(daemon: Daemon) -> Iterator[sync.Store]:
    with sync.connect(daemon.socket, worker_id="gone") as gone:
        yield gone


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def threads(stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads
        stop.set()  # else the threads of a test that has failed would be waited for


def leave_orphans(gone: sync.Store, *session_ids: str, app: str = "sales") -> None:
    for session_id in session_ids:
        call = gone.hold(SessionState(session_id), labels={"app": app}).__enter__()
        call.add_turn("user", f"hello from {session_id}")
        call.release()


def test_each_call_is_handled_in_a_thread_of_its_own(store: sync.Store, gone: sync.Store) -> None:
    leave_orphans(gone, "c1", "c2", "c3")
    together = threading.Barrier(3)

    def go_on(call: HeldCall) -> None:
        together.wait(WITHIN_S)
        assert call.state.history[0].content == f"hello from {call.id}"
        assert store.get(call.id).owner == "w1"
        call.add_turn("agent", "still there")
        if call.id == "c2":
            raise HangupError

    store.recover(go_on, end_on=HangupError)
    ended = {record.state.id: (record.ended_reason, record.turn_count) for record in store.sessions(status="ended")}
    assert ended == {"c1": ("completed", 2), "c2": ("caller_hangup", 2), "c3": ("completed", 2)}


def test_a_turn_that_ones_own_claim_has_fenced_waits_for_the_new_epoch(
    store: sync.Store, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call has become an orphan, and this store's claim of it, under way, has raised its epoch."""
    api = store._held_calls.api
    request = api.request
    claimed, fenced = threading.Event(), threading.Event()

    def watched(method: str, *args: Any, **options: Any) -> bytes:
        reply = request(method, *args, **options)
        if method == "session.claim_next":
            claimed.set()
            assert fenced.wait(WITHIN_S)
        elif method == "session.add_turn":
            fenced.set()
        return reply

    monkeypatch.setattr(api, "request", watched)
    with store.hold(SessionState("c1")) as call:
        store.release("c1", call.epoch)
        recovering = threads.submit(lambda: list(store.recover()))
        assert claimed.wait(WITHIN_S)
        call.add_turn("user", "said meanwhile")
        assert recovering.result(WITHIN_S) == []
        assert (call.epoch, call.lost) == (1, None)
    record = store.get("c1")
    assert (record.ended_reason, record.turn_count) == ("completed", 1)


def test_a_turn_in_flight_is_accepted_in_the_new_epoch(store: sync.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    api = store._held_calls.api
    request = api.request

    def late(method: str, *args: Any, **options: Any) -> bytes:
        if method == "session.add_turn" and call.epoch == 0:
            store.release("c1", 0)
            assert list(store.recover()) == []
        return request(method, *args, **options)

    with store.hold(SessionState("c1")) as call:
        monkeypatch.setattr(api, "request", late)
        call.add_turn("user", "said before")
        assert (call.epoch, call.lost) == (1, None)
        assert call.state.metrics.turn_count == 1
    assert store.get("c1").turn_count == 1


def test_no_more_is_claimed_than_can_be_handled(store: sync.Store, gone: sync.Store) -> None:
    leave_orphans(gone, "c1", "c2", "c3")
    owners = []

    def go_on(call: HeldCall) -> None:
        owners.append(sorted(str(record.owner) for record in store.sessions(status="active")))

    store.recover(go_on, concurrency=1)
    assert owners == [["None", "None", "w1"], ["None", "w1"], ["w1"]]
    with pytest.raises(ValueError, match="concurrency"):
        store.recover(go_on, concurrency=0)


def test_a_handler_that_fails_releases_its_call_and_the_others_go_on(
    store: sync.Store, gone: sync.Store, caplog: pytest.LogCaptureFixture
) -> None:
    leave_orphans(gone, "c1", "c2")

    def go_on(call: HeldCall) -> None:
        if call.id == "c1":
            raise OSError("no audio")

    with caplog.at_level(logging.ERROR, "callstate"):
        store.recover(go_on)
    assert "c1 was recovered, and its handler failed" in caplog.text
    record = store.get("c1")
    assert (record.state.status, record.owner) == ("active", None)
    assert store.get("c2").ended_reason == "completed"


def test_a_call_that_fails_again_and_again_is_left_to_others(
    store: sync.Store,
    gone: sync.Store,
    threads: ThreadPoolExecutor,
    stop: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "HOLD_BACK", Delays(0.01, 0.01))
    leave_orphans(gone, "c1")
    attempts = threading.Semaphore(0)

    def go_on(call: HeldCall) -> None:
        attempts.release()
        if call.id == "c1":
            raise OSError("no audio")
        stop.set()

    running = threads.submit(store.recover, go_on, watch=True, max_attempts=3, stop=stop, poll_s=POLL_S)
    for _ in range(2):
        assert attempts.acquire(timeout=WITHIN_S)
    leave_orphans(gone, "c2")
    running.result(WITHIN_S)
    record = store.get("c1")
    assert (record.state.status, record.owner) == ("active", None)


def test_watching_finds_calls_until_it_is_stopped(
    store: sync.Store, gone: sync.Store, threads: ThreadPoolExecutor, stop: threading.Event
) -> None:
    handled, finish = threading.Semaphore(0), threading.Event()

    def go_on(call: HeldCall) -> None:
        handled.release()
        assert finish.wait(WITHIN_S)

    running = threads.submit(store.recover, go_on, labels={"app": "sales"}, watch=True, stop=stop, poll_s=POLL_S)
    leave_orphans(gone, "c0", app="support")
    leave_orphans(gone, "c1")
    assert handled.acquire(timeout=WITHIN_S)
    stop.set()
    assert not running.done(), "the handler is still running"
    finish.set()
    running.result(WITHIN_S)
    assert store.get("c1").ended_reason == "completed"
    assert store.get("c0").owner is None


def test_an_interruption_releases_all_calls(
    store: sync.Store, gone: sync.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_orphans(gone, "c1", "c2")
    started, finish, lost = threading.Barrier(3), threading.Event(), []
    ended = threading.Semaphore(0)

    def go_on(call: HeldCall) -> None:
        started.wait(WITHIN_S)
        assert finish.wait(WITHIN_S)
        lost.append(type(call.lost))
        with pytest.raises(StoreClosedError):
            call.add_turn("agent", "too late")
        ended.release()

    class InterruptedStop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            started.wait(WITHIN_S)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.recover(go_on, watch=True, stop=InterruptedStop())
    assert [(record.state.status, record.owner) for record in store.sessions()] == [("active", None)] * 2
    finish.set()
    for _ in range(2):
        assert ended.acquire(timeout=WITHIN_S)
    assert lost == [ShuttingDownError] * 2


def test_calls_are_given_one_by_one(store: sync.Store, gone: sync.Store) -> None:
    leave_orphans(gone, "c1", "c2", "c3")
    seen = []
    for call in store.recover():
        seen.append(call.id)
        if call.id == "c1":
            call.release()
        elif call.id == "c2":
            with call:
                call.add_turn("agent", "goodbye")
        else:
            with pytest.raises(OSError, match="no audio"), call:
                raise OSError("no audio")
    assert seen == ["c1", "c2", "c3"]
    assert [store.get(session_id).owner for session_id in ("c1", "c3")] == [None, None]
    assert store.get("c2").ended_reason == "completed"


def test_an_own_call_that_became_an_orphan_goes_on_in_its_new_epoch(store: sync.Store, daemon: Daemon) -> None:
    with store.hold(SessionState("c1")) as call:
        with sync.connect(daemon.socket) as operator:
            operator.release("c1", call.epoch)
        assert [*store.recover()] == []
        assert (call.epoch, store.get("c1").owner) == (1, "w1")
        call.add_turn("user", "hello")


def test_a_call_claimed_again_while_its_release_is_answered_is_another_blocks(
    store: sync.Store, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that releases it learns so only after another one has claimed it: nobody would have handled it."""
    released, claimed = threading.Event(), threading.Event()
    real = SessionApi.release

    def release(api: SessionApi, session_id: str, epoch: int, **options: float | None) -> None:
        real(api, session_id, epoch, **options)
        if not released.is_set():
            released.set()
            assert claimed.wait(WITHIN_S)

    monkeypatch.setattr(SessionApi, "release", release)

    def fail() -> None:
        with pytest.raises(OSError, match="no audio"), store.hold(SessionState("c1")):
            raise OSError("no audio")

    failing = threads.submit(fail)
    assert released.wait(WITHIN_S)
    for call in store.recover():
        claimed.set()
        failing.result(WITHIN_S)
        assert (call.id, call.epoch, store.get("c1").owner) == ("c1", 1, "w1")
        with call:
            call.add_turn("agent", "still there")
    assert claimed.is_set(), "it was given to nobody"
    assert store.get("c1").ended_reason == "completed"


def test_closing_the_store_ends_the_watching(daemon: Daemon, threads: ThreadPoolExecutor) -> None:
    store = sync.connect(daemon.socket, worker_id="w9")
    waiting = threading.Event()

    class NotedStop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.set()
            return super().wait(timeout)

    running = threads.submit(store.recover, print, watch=True, stop=NotedStop(), poll_s=POLL_S)
    assert waiting.wait(WITHIN_S)
    store.close()
    running.result(WITHIN_S)
