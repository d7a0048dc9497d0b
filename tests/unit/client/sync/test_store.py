"""The blocking front against a peer that does what a daemon does only in its worst hour."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import callstate_client
from callstate_client import (
    CallHandle,
    CallStore,
    ConnectionLostError,
    InternalError,
    InvalidParamsError,
    NoDaemonError,
    RequestTimeoutError,
    SessionEndedError,
    SessionState,
    ShuttingDownError,
    StoreClosedError,
    TooLargeError,
    UnsupportedProtocolError,
    sync,
)
from callstate_client.sync import requester
from callstate_client.transport import blocking, pool
from callstate_client.transport.backoff import Delays
from callstate_client.transport.pending import OPS_REMEMBERED
from support.blocking_peer import WITHIN_S, Peer, Side

VERSION = {"version": 7}


@pytest.fixture
def peer(short_dir: Path) -> Iterator[Peer]:
    peer = Peer(short_dir / "s", {"protocol": 1})
    yield peer
    peer.stop()


@pytest.fixture
def store(peer: Peer) -> Iterator[sync.Store]:
    with sync.connect(peer.path, timeout_s=WITHIN_S) as store:
        yield store


@pytest.fixture
def side(peer: Peer, store: sync.Store) -> Side:
    """The store's first connection."""
    return peer.accept()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as threads:
        yield threads


# -- one front is like the other --------------------------------------------------------------------------------

ABSENT = {
    "hold",
    "open_call",
    "recover",
    "events",
    "default_heartbeat_timeout_s",
    "draining",
    "wait_draining",
    "leave",
    "graceful",
}
"""Of the asyncio front: what listens takes a loop. `hold` and `recover` have blocking forms of their own."""

BLOCKING = {
    "AsyncIterator[Record]": "Iterator[Record]",
    "AsyncIterator[protocol.Quarantined]": "Iterator[protocol.Quarantined]",
    "AsyncIterator[protocol.WorkerInfo]": "Iterator[protocol.WorkerInfo]",
    "Awaitable[bytes]": "bytes",
}


def public(cls: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers(cls) if not name.startswith("_")}


def test_the_fronts_have_the_same_methods() -> None:
    assert set(public(sync.Store)) == set(public(CallStore)) - ABSENT | {"path", "hold", "recover"}


@pytest.mark.parametrize(
    "name", [name for name, member in public(CallStore).items() if callable(member) and name not in ABSENT]
)
def test_signatures_are_the_same(name: str) -> None:
    theirs, ours = (inspect.signature(getattr(cls, name)) for cls in (CallStore, sync.Store))
    assert ours.parameters == theirs.parameters
    assert ours.return_annotation == BLOCKING.get(theirs.return_annotation, theirs.return_annotation)


def parameters_of(method: Any, without: set[str]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(method).parameters
    assert without <= parameters.keys()
    return {name: parameter for name, parameter in parameters.items() if name not in without}


def test_holding_takes_the_same_but_for_what_watches_a_task() -> None:
    theirs = parameters_of(CallStore.hold, {"cancel_on_lost", "watchdog_s"})
    assert parameters_of(sync.Store.hold, set()) == theirs


@pytest.mark.parametrize(
    "name", ["add_turn", "amend_last_turn", "record_interruption", "update", "end", "beat", "release"]
)
def test_held_calls_have_the_same_methods(name: str) -> None:
    theirs = parameters_of(getattr(CallHandle, name), set())
    assert parameters_of(getattr(sync.HeldCall, name), {"timeout_s"}) == theirs


def test_connecting_takes_the_same_but_for_what_watches_tasks() -> None:
    theirs = parameters_of(callstate_client.connect, {"register", "stall_timeout_s", "close_timeout_s"})
    assert [*parameters_of(sync.connect, set()).items()] == [*theirs.items()], "in the same order"


# -- requests and replies ---------------------------------------------------------------------------------------


def test_a_heartbeat_is_one_prebuilt_line(store: sync.Store, side: Side, threads: ThreadPoolExecutor) -> None:
    expected = b'{"jsonrpc":"2.0","id":1,"method":"session.heartbeat","params":{"session_id":"c1"}}\n'
    for _ in range(3):
        beat = threads.submit(store.update_heartbeat, "c1")
        assert side.line() == expected
        side.reply({})
        beat.result(WITHIN_S)


@pytest.mark.parametrize("session_id", ['say"cheese"', "back\\slash", "x" * 256])
def test_every_id_is_written_as_json(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor, session_id: str
) -> None:
    beat = threads.submit(store.update_heartbeat, session_id)
    assert side.request()["params"] == {"session_id": session_id}
    side.reply({})
    beat.result(WITHIN_S)


def test_more_sessions_than_lines_are_kept_for(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requester, "HEARTBEAT_LINES", 2)
    for session_id in ("a", "b", "c", "a", "b", "c"):
        beat = threads.submit(store.update_heartbeat, session_id)
        assert side.request()["params"] == {"session_id": session_id}
        side.reply({})
        beat.result(WITHIN_S)
        assert len(store._heartbeat_lines) <= 2


@pytest.mark.parametrize(
    "answer",
    [
        b'{"jsonrpc":"2.0","id":1,"result":{}}\n',
        b'{"jsonrpc":"2.0","id":1,"result":{"since":"a newer version"}}\n',
        b'{"jsonrpc":"2.0","id":1,"result": {}, "more": 1 }\n',
    ],
)
def test_a_heartbeats_reply_in_any_form(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor, answer: bytes
) -> None:
    beat = threads.submit(store.update_heartbeat, "c1")
    side.line()
    side.send(answer)
    beat.result(WITHIN_S)


def test_a_refused_heartbeat(store: sync.Store, side: Side, threads: ThreadPoolExecutor) -> None:
    beat = threads.submit(store.update_heartbeat, "c1")
    side.line()
    side.refuse(SessionEndedError("ended", reason="heartbeat_timeout"))
    with pytest.raises(SessionEndedError) as caught:
        beat.result(WITHIN_S)
    assert caught.value.reason == "heartbeat_timeout"


def test_a_bad_id_is_not_sent(store: sync.Store, side: Side, threads: ThreadPoolExecutor) -> None:
    with pytest.raises(InvalidParamsError):
        store.update_heartbeat("not an id")
    ping = threads.submit(store.ping)
    assert side.request()["method"] == "server.ping"
    side.reply({})
    ping.result(WITHIN_S)


def test_a_reply_that_comes_byte_by_byte(store: sync.Store, side: Side, threads: ThreadPoolExecutor) -> None:
    stats = threads.submit(store.stats)
    side.line()
    for byte in b'{"jsonrpc":"2.0","id":1,"result":{"a":[1,2]}}\n':
        side.send(bytes([byte]))
    assert stats.result(WITHIN_S) == {"a": [1, 2]}


@pytest.mark.parametrize("size", [blocking.FIRST_READ_BYTES, blocking.READ_BYTES, 3 * blocking.READ_BYTES])
def test_replies_about_as_long_as_what_is_read_at_once(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor, size: int
) -> None:
    envelope = len(b'{"jsonrpc":"2.0","id":1,"result":{"x":""}}\n')
    for length in range(size - envelope - 1, size - envelope + 2):
        stats = threads.submit(store.stats)
        side.line()
        side.reply({"x": "y" * length})
        assert stats.result(WITHIN_S) == {"x": "y" * length}


def test_a_reply_that_makes_no_sense_costs_its_own_call(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    load = threads.submit(store.load, "c1")
    side.line()
    side.reply({"version": "seven"})
    with pytest.raises(InternalError):
        load.result(WITHIN_S)
    ping = threads.submit(store.ping)
    side.line()  # on the same connection
    side.reply({})
    ping.result(WITHIN_S)


def test_an_error_without_id_is_the_requests(store: sync.Store, side: Side, threads: ThreadPoolExecutor) -> None:
    save = threads.submit(store.save, SessionState("c1"))
    side.line()
    side.send(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32008,"message":"too large"}}\n')
    with pytest.raises(TooLargeError):
        save.result(WITHIN_S)


def test_a_mutation_has_the_epoch_of_the_claim_or_the_one_given(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    claim = threads.submit(store.claim, "c1")
    side.line()
    side.reply(
        {"session": {"id": "c1"}, "version": 1, "epoch": 5, "labels": {}, "history_from": 0, "turn_count": 0}
    )
    claim.result(WITHIN_S)
    for mutate in (
        lambda **given: store.save(SessionState("c1"), **given),
        lambda **given: store.add_turn("c1", "user", "hello", **given),
        lambda **given: store.update("c1", status="active", **given),
        lambda **given: store.record_interruption("c1", **given),
    ):
        for given, expected in (({}, 5), ({"epoch": 7}, 7)):
            mutation = threads.submit(mutate, **given)
            line = side.line()
            assert line.count(b'"epoch":') == line.count(b'"epoch":%d' % expected) == 1
            side.reply({"version": 2, "updated_at": "2026-05-01T12:00:00Z"})
            mutation.result(WITHIN_S)
    release = threads.submit(store.release, "c1", 5)
    side.line()
    side.reply({})
    release.result(WITHIN_S)
    mutation = threads.submit(store.record_interruption, "c1")
    assert b'"epoch":' not in side.line()
    side.reply({"version": 3})
    mutation.result(WITHIN_S)


OTHERS = b'{"jsonrpc":"2.0","id":2,"result":{}}\n'
NOTICE = b'{"jsonrpc":"2.0","method":"event","params":{}}\n'


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n", b"\n", OTHERS, NOTICE, b'{"jsonrpc":"2.0","id":1,"result":{}}\n' * 2],
)
def test_another_server_is_disconnected(
    peer: Peer,
    store: sync.Store,
    side: Side,
    threads: ThreadPoolExecutor,
    garbage: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ping = threads.submit(store.ping)
    side.line()
    with caplog.at_level(logging.ERROR):
        side.send(garbage)
        again = peer.accept()
        assert side.line() == b""
        assert again.request()["method"] == "server.ping"
        again.reply({})
        ping.result(WITHIN_S)
    assert "not callstated" in caplog.text


def test_an_endless_reply_is_left(
    peer: Peer,
    store: sync.Store,
    side: Side,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(blocking, "REPLY_BYTES", 100_000)
    ping = threads.submit(store.ping)
    side.line()
    with caplog.at_level(logging.ERROR):
        flood = threads.submit(side.send, b"x" * 4_000_000)
        again = peer.accept()
        assert again.request()["method"] == "server.ping"
        again.reply({})
        ping.result(WITHIN_S)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        flood.result(WITHIN_S)
    assert "over 100000 bytes" in caplog.text


# -- timeouts ---------------------------------------------------------------------------------------------------


def test_no_answer_in_time(peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor) -> None:
    start = time.monotonic()
    with pytest.raises(RequestTimeoutError):
        store.ping(timeout_s=0.05)
    assert 0.05 <= time.monotonic() - start < 5
    assert side.request()["method"] == "server.ping"
    assert side.line() == b""  # hung up: a late reply could be taken for the next one's
    ping = threads.submit(store.ping)
    again = peer.accept()
    again.line()
    again.reply({})
    ping.result(WITHIN_S)


@pytest.mark.parametrize("timeout_s", [0, -1, 1e-9])
def test_no_time_at_all(store: sync.Store, side: Side, timeout_s: float) -> None:
    with pytest.raises(RequestTimeoutError):
        store.ping(timeout_s=timeout_s)


def test_each_call_has_its_own_timeout(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    with pytest.raises(RequestTimeoutError):
        store.ping(timeout_s=0.02)
    # neither what was left of another's time, nor more than can be said
    for timeout_s in (None, 1e300, None):
        ping = threads.submit(store.ping, timeout_s=timeout_s)
        again = peer.accept() if timeout_s is None and not peer._sides[1:] else peer._sides[-1]
        again.line()
        again.reply({})
        ping.result(WITHIN_S)


def test_the_stores_timeout_is_for_all(peer: Peer) -> None:
    with sync.connect(peer.path, timeout_s=0.02) as store:
        for ask in (store.ping, lambda: store.load("c1"), lambda: store.update_heartbeat("c1")):
            with pytest.raises(RequestTimeoutError):
                ask()


def test_a_reply_that_trickles_wins_no_time(store: sync.Store, side: Side, threads: ThreadPoolExecutor) -> None:
    def trickle() -> None:
        side.line()
        while True:
            side.send(b" ")

    trickling = threads.submit(trickle)
    start = time.monotonic()
    with pytest.raises(RequestTimeoutError):
        store.ping(timeout_s=0.1)
    assert time.monotonic() - start < WITHIN_S / 4
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        trickling.result(WITHIN_S)


def test_a_peer_that_does_not_read(store: sync.Store, side: Side) -> None:
    with pytest.raises(RequestTimeoutError):
        store.save(SessionState("c1", recovery_data={"x": "x" * 2_000_000}), timeout_s=0.05)


def test_a_long_request_to_a_peer_that_reads_slowly(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    side.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    state = SessionState("c1", recovery_data={"x": "x" * 2_000_000})
    save = threads.submit(store.save, state)
    assert side.request()["params"]["session"]["recovery_data"] == state.recovery_data
    side.reply({"version": 7, "updated_at": "2026-01-02T03:04:05Z"})
    assert save.result(WITHIN_S) == 7


@pytest.mark.parametrize("blocks", [True, False])
def test_a_descriptor_that_was_made_non_blocking(blocks: bool, threads: ThreadPoolExecutor) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.set_blocking(ours.fileno(), blocks)  # as gevent and eventlet do
        connection = blocking.BlockingConnection(ours)
        with pytest.raises(TimeoutError):
            connection.exchange(b"1\n", 0.02, time.monotonic() + 0.02)
        assert theirs.recv(10) == b"1\n"
        until = time.monotonic() + WITHIN_S
        asked = threads.submit(connection.exchange, b"2\n", WITHIN_S, until)
        assert theirs.recv(10) == b"2\n"
        theirs.sendall(b'{"jsonrpc":"2.0","id":1,')
        theirs.sendall(b'"result":{}}\n')
        assert asked.result(WITHIN_S) == requester.HEARTBEAT_REPLY
        long = b"x" * 1_000_000 + b"\n"  # more than a socket holds, so it goes in parts
        asked = threads.submit(connection.exchange, long, WITHIN_S, until)
        with theirs.makefile("rb") as lines:
            assert lines.readline() == long
        theirs.sendall(requester.HEARTBEAT_REPLY)
        assert asked.result(WITHIN_S) == requester.HEARTBEAT_REPLY


# -- connections that go ----------------------------------------------------------------------------------------


def test_repeatable_requests_are_sent_again(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    loaded = {"session": {"id": "c1"}, "version": 1}
    asks: list[tuple[Any, tuple[Any, ...], Any]] = [
        (store.load, ("c1",), loaded),
        (store.add_turn, ("c1", "user", "x"), VERSION),
        (store.update_heartbeat, ("c1",), {}),
        (store.end, ("c1",), VERSION),
    ]
    for method, args, result in asks:
        asked = threads.submit(method, *args)
        before = side.line()
        side.close()
        side = peer.accept()
        assert side.line() == before  # the op too
        side.reply(result)
        asked.result(WITHIN_S)


def test_what_a_stopping_daemon_refuses_is_sent_again_to_the_next_one(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    asks: list[tuple[Any, tuple[Any, ...], Any]] = [
        (store.add_turn, ("c1", "user", "x"), VERSION),
        (store.load, ("c1",), {"session": {"id": "c1"}, "version": 1}),
    ]
    for method, args, result in asks:
        asked = threads.submit(method, *args)
        before = side.line()
        for _ in range(2):
            side.refuse(ShuttingDownError("stopping"))
            assert side.request()["method"] == "server.ping"
        side.close()
        side = peer.accept()
        assert side.request()["method"] == "server.ping"
        side.reply({})
        assert side.line() == before  # the op too
        side.reply(result)
        asked.result(WITHIN_S)


def test_a_heartbeat_that_a_stopping_daemon_refuses_is_sent_again(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    asked = threads.submit(store.update_heartbeat, "c1")
    for method in ("session.heartbeat", "session.heartbeat", "server.ping"):
        assert side.request()["method"] == method
        side.refuse(ShuttingDownError("stopping"))
    for method in ("server.ping", "session.heartbeat"):
        assert side.request()["method"] == method
        side.reply({})
    asked.result(WITHIN_S)


def test_a_daemon_that_goes_on_stopping_is_not_waited_for_beyond_the_requests_time(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requester, "RESTART", Delays(1000.0, 1000.0))
    asked = threads.submit(store.load, "c1")
    for _ in range(2):
        side.line()
        side.refuse(ShuttingDownError("stopping"))
    with pytest.raises(ShuttingDownError):
        asked.result(WITHIN_S)


def test_a_request_stays_refused_if_there_is_no_next_daemon(store: sync.Store) -> None:
    refused = ShuttingDownError("stopping")
    with pytest.raises(ShuttingDownError) as raised:
        store._wait_answering(0.0, refused)  # its time is up
    assert raised.value is refused


def test_what_a_daemon_that_is_being_drained_refuses_is_raised(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    asked = threads.submit(store.save, SessionState("c1"))
    before = side.line()
    side.refuse(ShuttingDownError("draining"))
    assert side.request()["method"] == "server.ping"
    side.reply({})
    assert side.line() == before
    side.refuse(ShuttingDownError("draining"))
    with pytest.raises(ShuttingDownError, match="draining"):
        asked.result(WITHIN_S)


@pytest.mark.parametrize("features", [["delete_op"], []])
def test_a_deletion_is_sent_again_with_the_op_that_its_daemon_takes(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor, features: list[str]
) -> None:
    asked = threads.submit(store.delete, "c1")
    assert side.request()["method"] == "server.info"
    side.reply({"features": features})
    before = side.line()
    side.close()
    side = peer.accept()
    assert side.line() == before
    assert (b'"op":' in before) == bool(features)
    side.reply({})
    asked.result(WITHIN_S)


def test_the_rest_fails_at_once(peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor) -> None:
    blind = threads.submit(store.request, "session.claim_next")
    side.line()
    side.close()
    with pytest.raises(ConnectionLostError, match="outcome unknown"):
        blind.result(WITHIN_S)


def test_a_request_that_never_left_may_be_sent_again(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    side.close()  # while nothing was under way
    asked = threads.submit(store.request, "session.claim_next")
    again = peer.accept()
    assert again.request()["method"] == "session.claim_next"
    again.reply(None)
    assert asked.result(WITHIN_S) == b'{"jsonrpc":"2.0","id":1,"result":null}\n'


def test_all_that_were_idle_are_left_with_the_first_that_is_lost(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    pings = [threads.submit(store.ping) for _ in range(5)]
    sides = [side, *(peer.accept() for _ in range(4))]
    for one in sides:
        one.line()
    for one in sides:
        one.reply({})
    for ping in pings:
        ping.result(WITHIN_S)
    for one in sides:
        one.close()
    ping = threads.submit(store.ping)
    again = peer.accept()
    again.line()
    again.reply({})
    ping.result(WITHIN_S)
    assert len(store._pool._ours().idle) == len(store._pool._ours()._all) == 1


@pytest.mark.parametrize("later", [OPS_REMEMBERED - 1, OPS_REMEMBERED])
def test_a_mutation_is_repeated_while_its_op_is_remembered(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor, later: int
) -> None:
    first = threads.submit(store.add_turn, "c1", "user", "first")
    line = side.line()
    others = [threads.submit(store.record_interruption, "c1") for _ in range(later)]
    elsewhere = threads.submit(store.record_interruption, "c2")  # another session's are no matter
    sides = [peer.accept() for _ in (*others, elsewhere)]
    for other in sides:
        other.line()
    side.close()
    if later < OPS_REMEMBERED:
        again = peer.accept()
        assert again.line() == line
        again.reply(VERSION)
        assert first.result(WITHIN_S) == 7
    else:
        with pytest.raises(ConnectionLostError, match="outcome unknown"):
            first.result(WITHIN_S)
    for other in sides:
        other.reply(VERSION)
    assert [other.result(WITHIN_S) for other in (*others, elsewhere)] == [7] * (later + 1)
    assert store._pool._ours()._mutations == {}


def test_a_mutation_that_waits_for_the_daemon_is_overtaken(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    first = threads.submit(store.add_turn, "c1", "user", "first")
    side.line()
    peer.stop()  # so it waits for the peer to come back
    others = [threads.submit(store.record_interruption, "c1") for _ in range(OPS_REMEMBERED)]
    ours = store._pool._ours()
    while ours._mutations["c1"][1] <= OPS_REMEMBERED:  # until all have begun
        os.sched_yield()
    peer.start()
    serving = threads.submit(serve, peer, threads)
    with pytest.raises(ConnectionLostError, match="outcome unknown"):
        first.result(WITHIN_S)
    assert [other.result(WITHIN_S) for other in others] == [7] * OPS_REMEMBERED
    store.close()
    peer.stop()
    assert not any(b'"session.add_turn"' in line for line in serving.result(WITHIN_S))


def serve(peer: Peer, threads: ThreadPoolExecutor) -> list[bytes]:
    """Answer all mutations until the peer is stopped; gives their lines."""
    lines: list[bytes] = []

    def answer(side: Side) -> None:
        while line := side.line():
            lines.append(line)
            side.reply(VERSION)

    while True:
        try:
            threads.submit(answer, peer.accept())
        except OSError:  # stopped
            return lines


def test_requests_in_flight_when_the_daemon_stops_for_good(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    sent = threads.submit(store.load, "c1", timeout_s=0.3)
    side.line()
    peer.stop()
    with pytest.raises(ConnectionLostError, match="did not come back"):
        sent.result(WITHIN_S)
    with pytest.raises(NoDaemonError, match=f"{peer.path}: absent"):
        store.load("c1", timeout_s=0.05)


def test_it_comes_back_to_a_daemon_that_comes_back(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    ping = threads.submit(store.ping)
    side.line()
    peer.stop()
    peer.start()
    again = peer.accept()
    again.line()
    again.reply({})
    ping.result(WITHIN_S)


def test_a_peer_that_hangs_up_at_once_is_not_stormed(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    side.close()
    ping = threads.submit(store.ping, timeout_s=0.4)
    count = 0
    while not ping.done():
        try:
            hanging_up = peer.accept(0.05)
        except TimeoutError:
            continue
        hanging_up.line()
        hanging_up.close()
        count += 1
    with pytest.raises(ConnectionLostError):
        ping.result()
    # 0 + 10 + 20 + 40 + 80 + 160 + 320 ms, each at least halved by the jitter
    assert 1 <= count <= 9


def test_it_waits_for_a_daemon_that_is_not_there_yet(short_dir: Path, threads: ThreadPoolExecutor) -> None:
    connecting: Future[sync.Store] = threads.submit(sync.connect, short_dir / "s", wait_s=WITHIN_S)
    peer = Peer(short_dir / "s", {"protocol": 1})
    peer.accept()
    connecting.result(WITHIN_S).close()
    peer.stop()


def test_no_waiting_and_no_hope(short_dir: Path) -> None:
    start = time.monotonic()
    with pytest.raises(NoDaemonError, match="absent"):
        sync.connect(short_dir / "s", wait_s=0)
    with pytest.raises(NoDaemonError, match="at most"):
        sync.connect("/" + "x" * 200)
    assert time.monotonic() - start < 4  # less than the default wait


def test_one_that_never_answers_gets_a_moment_and_no_more(short_dir: Path) -> None:
    peer = Peer(short_dir / "s")
    start = time.monotonic()
    with pytest.raises(NoDaemonError, match="no answer in time") as caught:
        sync.connect(peer.path, wait_s=0, timeout_s=0.1)
    assert caught.value.silent
    assert time.monotonic() - start >= 0.1
    peer.stop()


# -- which protocol is spoken -----------------------------------------------------------------------------------


@pytest.mark.parametrize("worker_id", ["w1", None])
def test_a_protocol_of_another_version_is_said_at_once(
    short_dir: Path, threads: ThreadPoolExecutor, worker_id: str | None
) -> None:
    peer = Peer(short_dir / "s")
    connecting = threads.submit(sync.connect, peer.path, wait_s=WITHIN_S, worker_id=worker_id)
    side = peer.accept()
    assert side.request()["method"] == "server.info"
    side.reply({"protocol": 2, "version": "9.0"})
    with pytest.raises(UnsupportedProtocolError, match=r"\(9\.0\) speaks protocol 2.* knows 1") as caught:
        connecting.result(WITHIN_S)
    assert caught.value.spoken == 2
    assert not side.line(), "nothing else is said to it"
    peer.stop()


def test_a_daemon_of_another_protocol_in_the_place_of_ours_gets_nothing(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    peer.says = {"protocol": 2}
    turn = threads.submit(store.add_turn, "c1", "user", "x")
    side.line()
    side.close()
    with pytest.raises(UnsupportedProtocolError):
        turn.result(WITHIN_S)
    assert not peer.accept().line()


# -- threads, signals, closing ----------------------------------------------------------------------------------


def test_one_threads_slow_call_holds_up_no_other(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    slow = threads.submit(store.load, "c1")
    side.line()
    for _ in range(3):
        beat = threads.submit(store.update_heartbeat, "c2")
        other = peer._sides[1] if peer._sides[1:] else peer.accept()  # one more connection does for all three
        other.line()
        other.reply({})
        beat.result(WITHIN_S)
    assert not slow.done()
    side.reply({"session": {"id": "c1"}, "version": 1})
    assert slow.result(WITHIN_S).id == "c1"


class Interrupted(BaseException):
    """Raised by the handler of a signal."""


@pytest.fixture
def on_signal() -> Iterator[Any]:
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def test_the_reply_of_an_interrupted_request_goes_to_no_other(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor, on_signal: Any
) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    def kick() -> None:
        side.line()
        signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.main_thread().ident
    assert main is not None
    on_signal(interrupt)
    threads.submit(kick)
    with pytest.raises(Interrupted):
        store.stats()
    assert side.line() == b""  # hung up
    ping = threads.submit(store.ping)
    again = peer.accept()
    again.line()
    again.reply({})
    ping.result(WITHIN_S)


def test_a_connection_that_an_interruption_leaves_to_nobody_is_closed(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    """As one that comes when the connection was just taken from those that are idle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it is the socket that closes itself
        store._pool._ours().idle.pop()
    assert side.line() == b""
    ping = threads.submit(store.ping)
    again = peer.accept()
    again.line()
    again.reply({})
    ping.result(WITHIN_S)


def test_a_signals_handler_may_ask_in_the_middle_of_a_call(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor, on_signal: Any
) -> None:
    said: list[Any] = []

    def play() -> None:
        side.line()
        signal.pthread_kill(main, signal.SIGUSR1)
        other = peer.accept()
        other.line()
        other.reply({"who": "inner"})
        side.reply({"who": "outer"})

    main = threading.main_thread().ident
    assert main is not None
    on_signal(lambda *_: said.append(store.stats()))
    playing = threads.submit(play)
    said.append(store.stats())
    playing.result(WITHIN_S)
    assert said == [{"who": "inner"}, {"who": "outer"}]


def test_closing_ends_requests_in_flight(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    one, two = threads.submit(store.ping), threads.submit(store.load, "c1")
    side.line()
    peer.accept().line()
    store.close()
    store.close()
    for asked in (one, two):
        with pytest.raises(StoreClosedError):
            asked.result(WITHIN_S)
    asks = (
        store.ping,
        lambda: store.save(None),
        lambda: store.update_heartbeat("c1"),
        lambda: next(iter(store.sessions())),
    )
    for ask in asks:
        with pytest.raises(StoreClosedError):
            ask()
    assert store.closed
    assert not store._pool._ours()._all


def test_a_heartbeat_that_was_sent_before_is_refused_after_closing(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    beat = threads.submit(store.update_heartbeat, "c1")
    side.line()
    side.reply({})
    beat.result(WITHIN_S)
    store.close()
    with pytest.raises(StoreClosedError):
        store.update_heartbeat("c1")
    assert side.line() == b""


def test_closing_just_after_a_reply(
    store: sync.Store, side: Side, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = blocking.BlockingConnection.exchange

    def then_close(*args: Any) -> bytes:
        reply = exchange(*args)
        store.close()
        return reply

    monkeypatch.setattr(blocking.BlockingConnection, "exchange", then_close)
    stats = threads.submit(store.stats)
    side.line()
    side.reply({"a": 1})
    assert stats.result(WITHIN_S) == {"a": 1}
    assert side.line() == b""
    assert not store._pool._ours()._all


def test_closing_just_after_connecting(store: sync.Store, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def then_close(*args: Any) -> Any:
        made = blocking.dial(*args)
        store.close()
        return made

    monkeypatch.setattr(pool, "dial", then_close)
    side.close()
    start = time.monotonic()
    with pytest.raises(StoreClosedError):
        store.ping()
    assert time.monotonic() - start < WITHIN_S / 4  # it did not wait for a reply
    assert not store._pool._ours()._all


def test_closing_while_the_daemon_is_away(
    peer: Peer, store: sync.Store, side: Side, threads: ThreadPoolExecutor
) -> None:
    ping = threads.submit(store.ping)
    side.line()
    peer.stop()
    store.close()
    with pytest.raises(StoreClosedError):
        ping.result(WITHIN_S)


def test_the_store_is_named_sidecar(peer: Peer, store: sync.Store) -> None:
    assert (store.name, store.path, store.closed) == ("sidecar", str(peer.path), False)
    assert len({store.new_op() for _ in range(100)}) == 100


# -- forks ------------------------------------------------------------------------------------------------------


def test_a_forked_child_is_another_worker(store: sync.Store) -> None:
    """What it claims is not its parent's: else both would hold it, in one epoch."""
    mine = store.worker_id
    child = os.fork()
    if not child:
        os._exit(store.worker_id == mine)
    assert os.waitpid(child, 0)[1] == 0
    assert store.worker_id == mine
