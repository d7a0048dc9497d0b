"""`hold()` of the blocking front against a peer: an older daemon, or others who change the same session."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from callstate_client import (
    ConflictError,
    ForbiddenError,
    MethodNotFoundError,
    OverloadedError,
    RequestTimeoutError,
    SessionNotFoundError,
    SessionState,
    WireError,
    sync,
)
from callstate_client.calls.heartbeats import schedule
from callstate_client.protocol import CLAIM_TIMEOUTS
from support.blocking_peer import WITHIN_S, Peer, Side

RECORD = {
    "session": {"id": "c1", "status": "active"},
    "version": 3,
    "epoch": 4,
    "labels": {},
    "history_from": 0,
    "turn_count": 0,
}
SAVED = {"version": 1, "updated_at": "2026-05-01T12:00:00Z", "epoch": 5, "heartbeat_timeout_s": 30.0}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.fixture
def peer(short_dir: Path) -> Iterator[Peer]:
    peer = Peer(short_dir / "s", {"protocol": 1})
    yield peer
    peer.stop()


@pytest.fixture
def store(peer: Peer, threads: ThreadPoolExecutor) -> Iterator[sync.Store]:
    connecting = threads.submit(sync.connect, peer.path, wait_s=WITHIN_S, timeout_s=WITHIN_S, worker_id="w1")
    side = peer.accept()
    answer(side, "worker.register", {"worker_id": "w1"})
    with connecting.result(WITHIN_S) as store:
        yield store


@pytest.fixture
def side(peer: Peer, store: sync.Store) -> Side:
    return peer._sides[0]


def answer(side: Side, method: str, reply: dict[str, Any] | WireError) -> dict[str, Any]:
    """Answer the next request, which is for this verb; gives its params."""
    request = side.request()
    assert request["method"] == method
    if isinstance(reply, WireError):
        side.refuse(reply)
    else:
        side.reply(reply)
    params: dict[str, Any] = request.get("params", {})
    return params


def test_an_older_daemon_takes_no_timeouts_with_a_claim(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    entering = threads.submit(store.hold("c1", heartbeat_timeout_s=60, beat="manual").__enter__)
    answer(side, "server.info", {"features": []})
    claim = answer(side, "session.claim", RECORD)
    assert claim == {"session_id": "c1", "worker_id": "w1"}
    assert entering.result(WITHIN_S).epoch == 4


def test_an_older_daemon_can_not_limit_a_call_that_is_claimed(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    entering = threads.submit(store.hold("c1", max_duration_s=60).__enter__)
    answer(side, "server.info", {"features": []})
    with pytest.raises(MethodNotFoundError, match="max_duration_s"):
        entering.result(WITHIN_S)


@pytest.mark.parametrize("told", [{"heartbeat_timeout_s": 0.03}, OverloadedError("not now")])
def test_heartbeats_to_an_older_daemon_follow_its_default_timeout(
    peer: Peer,
    store: sync.Store,
    side: Side,
    threads: ThreadPoolExecutor,
    told: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its reply has none for the session."""
    monkeypatch.setattr(schedule, "DEFAULT_TIMEOUT_S", 0.03)
    entering = threads.submit(store.hold("c1").__enter__)
    answer(side, "session.claim", RECORD)
    answer(side, "server.info", told)
    call = entering.result(WITHIN_S)
    of_heartbeats = peer.accept()
    answer(of_heartbeats, "worker.register", {"worker_id": "w1"})
    assert answer(of_heartbeats, "session.heartbeat", {}) == {"session_ids": ["c1"]}
    releasing = threads.submit(call.release)
    answer(side, "session.release", {})
    releasing.result(WITHIN_S)


@pytest.mark.parametrize("unread", [SessionNotFoundError("deleted meanwhile"), ForbiddenError("another user's")])
def test_the_error_for_a_taken_id_is_raised_if_that_can_not_be_read(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor, unread: WireError
) -> None:
    entering = threads.submit(store.hold(SessionState("c1")).__enter__)
    answer(side, "session.save", ConflictError("there already", version=3, status="active"))
    answer(side, "session.load", unread)
    with pytest.raises(ConflictError, match="there already"):
        entering.result(WITHIN_S)


def test_of_two_workers_that_begin_an_ended_call_anew_the_later_one_is_told_so(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    entering = threads.submit(store.hold(SessionState("c1"), replace_ended=True).__enter__)
    answer(side, "session.save", ConflictError("there already", version=3, status="ended"))
    answer(side, "session.load", RECORD | {"session": {"id": "c1", "status": "ended"}})
    assert answer(side, "session.save", ConflictError("its version is 4", version=4))["if_version"] == 3
    answer(side, "session.load", RECORD | {"version": 4, "owner": "w2"})
    with pytest.raises(ConflictError, match="held by worker w2"):
        entering.result(WITHIN_S)


def test_a_daemon_that_takes_timeouts_with_a_claim_gets_them(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    hold = store.hold("c1", heartbeat_timeout_s=60, max_duration_s=600, beat="manual")
    entering = threads.submit(hold.__enter__)
    answer(side, "server.info", {"features": [CLAIM_TIMEOUTS]})
    claim = answer(side, "session.claim", RECORD)
    assert (claim["heartbeat_timeout_s"], claim["max_duration_s"]) == (60, 600)
    entering.result(WITHIN_S)


def test_the_version_is_the_last_one_whichever_thread_is_told_first(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    entering = threads.submit(store.hold(SessionState("c1"), beat="manual").__enter__)
    answer(side, "session.save", SAVED)
    call = entering.result(WITHIN_S)
    earlier = threads.submit(call.add_turn, "user", "one")
    assert side.request()["method"] == "session.add_turn"
    with ThreadPoolExecutor(1) as another:
        later = another.submit(call.add_turn, "user", "two")
        theirs = peer.accept()
        answer(theirs, "worker.register", {"worker_id": "w1"})
        answer(theirs, "session.add_turn", {"version": 3, "turn_count": 2})
        assert later.result(WITHIN_S) == 3
    side.reply({"version": 2, "turn_count": 1})
    assert earlier.result(WITHIN_S) == 2
    assert (call.version, call.state.metrics.turn_count) == (3, 2)
    releasing = threads.submit(call.release)
    answer(side, "session.release", {})
    releasing.result(WITHIN_S)


def test_the_state_has_the_changes_in_the_order_of_the_daemon_whichever_thread_is_told_first(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    entering = threads.submit(store.hold(SessionState("c1"), beat="manual").__enter__)
    answer(side, "session.save", SAVED)
    call = entering.result(WITHIN_S)
    earliest = threads.submit(call.add_turn, "user", "one")
    assert side.request()["method"] == "session.add_turn"
    with ThreadPoolExecutor(2) as others:
        second = others.submit(call.add_turn, "agent", "two", 100)
        of_second = peer.accept()
        answer(of_second, "worker.register", {"worker_id": "w1"})
        assert of_second.request()["method"] == "session.add_turn"
        ending = others.submit(call.end)
        of_end = peer.accept()
        answer(of_end, "worker.register", {"worker_id": "w1"})
        answer(of_end, "session.end", {"version": 5})
        ending.result(WITHIN_S)
        late = others.submit(call.add_turn, "agent", "four")
        answer(of_end, "session.add_turn", {"version": 6, "turn_count": 4})
        late.result(WITHIN_S)
        of_second.reply({"version": 3, "turn_count": 2})
        second.result(WITHIN_S)
        amending = others.submit(call.amend_last_turn, content="two, amended")
        answer(of_second, "session.amend_turn", {"version": 4})
        amending.result(WITHIN_S)
    side.reply({"version": 2, "turn_count": 1})
    earliest.result(WITHIN_S)
    assert [turn.content for turn in call.state.history] == ["one", "two, amended", "four"]
    assert (call.version, call.ended, call.state.status) == (6, True, "ended")
    metrics = call.state.metrics
    assert (metrics.turn_count, metrics.agent_speech_duration_ms) == (3, 100)
    call.leave(None)


def test_a_release_is_sent_again_if_the_connection_is_lost(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    """Else the session would stay this worker's until it is suspected."""
    entering = threads.submit(store.hold(SessionState("c1"), beat="manual").__enter__)
    answer(side, "session.save", SAVED)
    leaving = threads.submit(entering.result(WITHIN_S).leave, ZeroDivisionError())
    assert side.request()["method"] == "session.release"
    side.close()
    again = peer.accept()
    answer(again, "worker.register", {"worker_id": "w1"})
    assert answer(again, "session.release", {}) == {"session_id": "c1", "epoch": 5}
    leaving.result(WITHIN_S)


def test_a_call_that_its_user_has_dropped_gets_no_more_heartbeats(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    """It becomes suspect, and is another worker's to claim."""
    entering = threads.submit(store.hold(SessionState("c1")).__enter__)
    answer(side, "session.save", SAVED)
    call: sync.HeldCall | None = entering.result(WITHIN_S)
    heartbeats = store._held_calls._heartbeats()
    assert heartbeats._schedule._calls["c1"].is_wanted
    call = None
    del entering
    threads.submit(gc.collect).result(WITHIN_S)
    assert not heartbeats._schedule._calls["c1"].is_wanted
    assert call is None


def test_a_signal_handler_may_hold_a_call_wherever_the_signal_comes(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    holding = store._held_calls._holding.get()

    def interrupted() -> sync.HeldCall:
        """The handler runs in the thread that has the locks."""
        with holding.lock, holding.claiming:
            return store.hold(SessionState("c1"), beat="manual").__enter__()

    entering = threads.submit(interrupted)
    answer(side, "session.save", SAVED)
    call = entering.result(WITHIN_S)
    releasing = threads.submit(call.release)
    answer(side, "session.release", {})
    releasing.result(WITHIN_S)


def test_a_call_can_be_held_after_an_interruption_of_its_entry(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    class Interrupting(set[str]):
        def add(self, session_id: str) -> None:
            super().add(session_id)
            raise KeyboardInterrupt

    holding = store._held_calls._holding.get()
    holding.entering = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        store.hold(SessionState("c1")).__enter__()
    assert not holding.entering
    holding.entering = set()
    entering = threads.submit(store.hold(SessionState("c1"), beat="manual").__enter__)
    answer(side, "session.save", SAVED)
    releasing = threads.submit(entering.result(WITHIN_S).release)
    answer(side, "session.release", {})
    releasing.result(WITHIN_S)


def test_a_session_that_is_deleted_before_it_can_be_resumed_is_a_new_one(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    entering = threads.submit(store.hold(SessionState("c1"), resume=True, beat="manual").__enter__)
    answer(side, "session.save", ConflictError("there already", version=3, status="active"))
    answer(side, "session.load", RECORD)
    answer(side, "session.claim", SessionNotFoundError("no such session"))
    saved = answer(side, "session.save", SAVED)
    assert saved["if_version"] == 0
    call = entering.result(WITHIN_S)
    assert (call.version, call.epoch) == (1, 5)
    # its mutations carry its epoch, and so do those of the store for its session
    for change in (call.record_interruption, partial(store.record_interruption, "c1")):
        changing = threads.submit(change)
        assert answer(side, "session.record_interruption", {"version": 2})["epoch"] == 5
        changing.result(WITHIN_S)
    leaving = threads.submit(call.release)
    assert answer(side, "session.release", {}) == {"session_id": "c1", "epoch": 5}
    leaving.result(WITHIN_S)
    changing = threads.submit(store.record_interruption, "c1")
    assert "epoch" not in answer(side, "session.record_interruption", {"version": 3})
    changing.result(WITHIN_S)


def test_a_mutation_of_the_store_overtakes_none_of_the_call_which_queues_nothing(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    entering = threads.submit(store.hold(SessionState("c1"), beat="manual").__enter__)
    answer(side, "session.save", SAVED)
    call = entering.result(WITHIN_S)
    adding = threads.submit(call.add_turn, "user", "never acknowledged", timeout_s=0.05)
    assert side.request()["method"] == "session.add_turn"
    with pytest.raises(RequestTimeoutError):
        adding.result(WITHIN_S)
    ending = threads.submit(store.end, "c1")
    again = peer.accept()
    answer(again, "worker.register", {"worker_id": "w1"})
    answer(again, "session.end", {"version": 2})  # the turn is not sent again
    ending.result(WITHIN_S)
    releasing = threads.submit(call.release)
    answer(again, "session.release", {})
    releasing.result(WITHIN_S)
