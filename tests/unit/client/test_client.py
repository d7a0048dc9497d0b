"""SidecarStore against a peer that does what a daemon does only in its worst hour."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from callstate_client import (
    ConflictError,
    ConnectionLostError,
    ForbiddenError,
    InternalError,
    InvalidParamsError,
    NoDaemonError,
    Record,
    RequestTimeoutError,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
    ShuttingDownError,
    SidecarStore,
    StoreClosedError,
    TooLargeError,
    UnsupportedProtocolError,
    connect,
    requester,
    sync,
)
from callstate_client.errors import FencedError, OverloadedError, WireError
from callstate_client.transport.backoff import Delays
from callstate_client.transport.pending import OPS_REMEMBERED
from support.scripted import ScriptedPeer

VERSION = {"version": 7}


@pytest.fixture
async def store(peer: ScriptedPeer) -> AsyncIterator[SidecarStore]:
    async with connect(peer.path) as store:
        await peer.connections.get()
        yield store


def soon(*asks: object) -> list[asyncio.Task[object]]:
    return [asyncio.ensure_future(ask) for ask in asks]  # type: ignore[call-overload]


async def test_requests_of_one_turn_leave_in_one_write(peer: ScriptedPeer, store: SidecarStore) -> None:
    tasks = soon(*(store.ping() for _ in range(3)), store.record_interruption("c1"), store.update_heartbeat("c1"))
    requests = [await peer.received.get()]
    assert requests[0].count(b"\n") == 5
    for request in sorted(map_lines(requests[0]), key=lambda request: -request["id"]):  # any order will do
        peer.reply(request, VERSION if request["method"] == "session.record_interruption" else {})
    assert await asyncio.gather(*tasks) == [None, None, None, 7, None]


def map_lines(data: bytes) -> list[dict]:  # type: ignore[type-arg]
    import json

    return [json.loads(line) for line in data.splitlines()]


async def test_beats_of_one_turn_are_one_message_and_each_has_its_outcome(
    peer: ScriptedPeer, store: SidecarStore
) -> None:
    tasks = soon(*(store.update_heartbeat(session_id) for session_id in ("a", "b", "c", "d", "a")))
    (request,) = await peer.requests(1)
    assert request["params"] == {"session_ids": ["a", "b", "c", "d"]}
    peer.reply(request, {"missing": ["b"], "ended": ["c"], "fenced": ["d"]})
    # the lists don't say why: those two are asked for once more, each alone
    ended, fenced = await peer.requests(2)
    assert [ended["params"], fenced["params"]] == [{"session_id": "c"}, {"session_id": "d"}]
    peer.refuse(ended, SessionEndedError("ended", reason="heartbeat_timeout"))
    peer.refuse(fenced, FencedError("fenced", host="h2"))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[2], SessionEndedError)
    assert outcomes[2].reason == "heartbeat_timeout"
    assert [type(outcome) for outcome in outcomes] == [
        type(None), SessionNotFoundError, SessionEndedError, FencedError, type(None),
    ]  # fmt: skip


async def test_what_a_stopping_daemon_refuses_is_sent_again_to_the_next_one(
    peer: ScriptedPeer, store: SidecarStore
) -> None:
    tasks = soon(store.record_interruption("c1"), store.get("c2", "none"), store.update_heartbeat("c3"))
    first = await peer.requests(3)
    pings: list[dict[str, Any]] = []
    for request in first:
        peer.refuse(request, ShuttingDownError("stopping"))
        pings += await peer.requests(1)
    for ping in pings:
        peer.refuse(ping, ShuttingDownError("stopping"))
    peer.hang_up()
    pings = await peer.requests(3)
    assert {ping["method"] for ping in pings} == {"server.ping"}
    last: list[dict[str, Any]] = []
    for ping in pings:
        peer.reply(ping, {})
        last += await peer.requests(1)
    for request in last:
        peer.reply(request, {"session": {"id": "c2"}, "version": 7})
    sent = [sorted((each["method"], str(each["params"])) for each in requests) for requests in (first, last)]
    assert sent[0] == sent[1], "each with its op"
    interrupted, record, beaten = await asyncio.gather(*tasks)
    assert (interrupted, cast("Record", record).version, beaten) == (7, 7, None)


async def test_what_a_daemon_that_is_being_drained_refuses_is_raised(
    peer: ScriptedPeer, store: SidecarStore
) -> None:
    (task,) = soon(store.save(SessionState("c1")))
    for method in ("session.save", "server.ping", "session.save"):
        (request,) = await peer.requests(1)
        assert request["method"] == method
        if method == "server.ping":
            peer.reply(request, {})
        else:
            peer.refuse(request, ShuttingDownError("draining"))
    with pytest.raises(ShuttingDownError, match="draining"):
        await task


async def test_a_daemon_that_goes_on_stopping_is_not_waited_for_beyond_the_requests_time(
    peer: ScriptedPeer, store: SidecarStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requester, "RESTART", Delays(1000.0, 1000.0))
    (task,) = soon(store.get("c1", timeout_s=100.0))
    for _ in range(2):
        peer.refuse((await peer.requests(1))[0], ShuttingDownError("stopping"))
    with pytest.raises(ShuttingDownError):
        await task


async def test_a_request_stays_refused_if_there_is_no_next_daemon(store: SidecarStore) -> None:
    refused = ShuttingDownError("stopping")
    with pytest.raises(ShuttingDownError) as raised:
        await store._wait_answering(0.0, refused)  # its time is up
    assert raised.value is refused


async def test_a_heartbeat_with_a_timeout_of_its_own_goes_alone(peer: ScriptedPeer, store: SidecarStore) -> None:
    with pytest.raises(RequestTimeoutError):
        await store.update_heartbeat("a", timeout_s=0.01)
    (request,) = await peer.requests(1)
    assert request["params"] == {"session_id": "a"}


async def test_very_many_beats_are_several_messages(peer: ScriptedPeer, store: SidecarStore) -> None:
    tasks = soon(*(store.update_heartbeat("x" * 250 + f"{n:05}") for n in range(2500)))
    received = b""
    while received.count(b"\n") < 2:
        received += await peer.received.get()
    requests = map_lines(received)
    assert [len(request["params"]["session_ids"]) for request in requests] == [2000, 500]
    for request in requests:
        peer.reply(request, {})
    await asyncio.gather(*tasks)


async def test_no_answer_in_time(peer: ScriptedPeer, store: SidecarStore) -> None:
    with pytest.raises(RequestTimeoutError):
        await store.ping(timeout_s=0.01)
    (late,) = await peer.requests(1)
    task = asyncio.ensure_future(store.ping())
    (request,) = await peer.requests(1)
    peer.reply(late, {})  # nobody waits for this one
    peer.reply(request, {})
    await task


async def test_each_call_has_its_own_timeout(peer: ScriptedPeer, store: SidecarStore) -> None:
    slow, quick = soon(store.ping(), store.ping(timeout_s=0.01))
    with pytest.raises(RequestTimeoutError):
        await quick
    assert not slow.done()
    peer.reply((await peer.requests(2))[0], {})
    await slow


async def test_the_stores_timeout_is_for_all(peer: ScriptedPeer) -> None:
    async with connect(peer.path, timeout_s=0.01) as store:
        for ask in (store.ping(), store.load("c1"), store.update_heartbeat("c1")):
            with pytest.raises(RequestTimeoutError):
                await ask


async def test_a_cancelled_call_leaves_the_others_alone(peer: ScriptedPeer, store: SidecarStore) -> None:
    kept, cancelled, never_sent = soon(store.ping(), store.ping(), store.ping())
    requests_due = asyncio.ensure_future(peer.requests(3))
    requests = await requests_due
    cancelled.cancel()
    peer.reply(requests[1], {})
    peer.reply(requests[0], {})
    peer.reply(requests[2], {})
    await asyncio.gather(kept, never_sent)
    assert (await asyncio.gather(cancelled, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_repeatable_requests_are_sent_again(peer: ScriptedPeer, store: SidecarStore) -> None:
    tasks = soon(
        store.load("c1"), store.add_turn("c1", "user", "x"), store.update_heartbeat("c1"), store.delete("c2")
    )
    before = await peer.requests(4)
    peer.hang_up()
    again = await peer.requests(4)
    assert again == before  # the op too
    assert len({request["params"].get("op") for request in again}) == 2
    results = {"session.load": {"session": {"id": "c1"}, "version": 1}, "session.add_turn": VERSION}
    for request in again:
        peer.reply(request, results.get(request["method"], {}))
    loaded, version, *_ = await asyncio.gather(*tasks)
    assert (loaded.id, version) == ("c1", 7)  # type: ignore[attr-defined]


async def test_the_rest_fails_at_once(peer: ScriptedPeer, store: SidecarStore) -> None:
    tasks = soon(*(store.add_turn("c1", "user", str(n)) for n in range(OPS_REMEMBERED + 1)))
    blind = store.request("session.claim_next", None)
    await peer.requests(OPS_REMEMBERED + 2)
    peer.hang_up()
    with pytest.raises(ConnectionLostError, match="outcome unknown"):
        await blind
    with pytest.raises(ConnectionLostError):
        await tasks[0]  # the daemon might have forgotten its op
    for request in await peer.requests(OPS_REMEMBERED):
        peer.reply(request, VERSION)
    assert await asyncio.gather(*tasks[1:]) == [7] * OPS_REMEMBERED


async def test_requests_in_flight_when_the_daemon_stops_for_good(peer: ScriptedPeer, store: SidecarStore) -> None:
    (sent,) = soon(store.load("c1", timeout_s=0.1))
    await peer.requests(1)
    await peer.stop()
    with pytest.raises(ConnectionLostError, match="did not come back"):
        await sent
    with pytest.raises(NoDaemonError, match=f"{peer.path}: absent"):
        await store.load("c1", timeout_s=0.1)


async def test_it_comes_back_to_a_daemon_that_comes_back(peer: ScriptedPeer, store: SidecarStore) -> None:
    await peer.stop()
    (task,) = soon(store.ping())
    await peer.start()
    peer.reply((await peer.requests(1))[0], {})
    await task


async def test_it_waits_for_a_daemon_that_is_not_there_yet(short_dir: Path) -> None:
    peer = ScriptedPeer(short_dir / "s")
    connecting = asyncio.ensure_future(connect(peer.path)._connect())
    await asyncio.sleep(0)
    await peer.start()
    store = await connecting
    await store.close()
    await peer.stop()


async def test_a_peer_that_hangs_up_at_once_is_not_stormed(peer: ScriptedPeer, store: SidecarStore) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(6):
        peer.hang_up()
        await peer.connections.get()
    # 0 + 10 + 20 + 40 + 80 + 160 ms, each at least halved by the jitter
    assert loop.time() - start >= 0.150
    assert not store.closed


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n", b"\n", b"[]\n", b'{"id":"\xff"}\n'])
async def test_another_server_is_disconnected(
    peer: ScriptedPeer, store: SidecarStore, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (task,) = soon(store.ping())
    await peer.requests(1)
    with caplog.at_level(logging.ERROR):
        peer.send(garbage)
        peer.reply((await peer.requests(1))[0], {})  # on a new connection
        await task
    assert "not callstated" in caplog.text


async def test_a_reply_that_makes_no_sense_costs_its_own_call(peer: ScriptedPeer, store: SidecarStore) -> None:
    load, ping = soon(store.load("c1"), store.ping())
    requests = await peer.requests(2)
    peer.reply(requests[0], {"version": "seven"})
    peer.reply(requests[1], {})
    await ping
    with pytest.raises(InternalError):
        await load


async def test_errors_without_id(peer: ScriptedPeer, store: SidecarStore, caplog: pytest.LogCaptureFixture) -> None:
    save, ping = soon(store.save(SessionState("c1")), store.ping())
    requests = await peer.requests(2)
    with caplog.at_level(logging.ERROR):
        peer.send(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32008,"message":"too large"}}\n')
        peer.send(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"odd"}}\n')
        peer.reply(requests[1], {})
        await ping
    with pytest.raises(TooLargeError):
        await save
    assert "odd" in caplog.text


async def test_a_peer_that_does_not_read_blocks_no_caller_for_ever(peer: ScriptedPeer, store: SidecarStore) -> None:
    for transport in peer._open:
        transport.pause_reading()
    big = SessionState("c1", recovery_data={"x": "x" * 900_000})
    outcomes = await asyncio.gather(*(store.save(big, timeout_s=0.2) for _ in range(8)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {RequestTimeoutError}
    assert isinstance(
        (await asyncio.gather(store.ping(timeout_s=0.05), return_exceptions=True))[0], RequestTimeoutError
    )
    await store.close()  # which does not wait for it either


async def test_closing_ends_requests_in_flight(peer: ScriptedPeer, store: SidecarStore) -> None:
    tasks = soon(store.ping(), store.load("c1"), store.update_heartbeat("c1"))
    await peer.requests(3)
    (unsent,) = soon(store.update_heartbeat("c2"))
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    for task in (*tasks, unsent):
        with pytest.raises(StoreClosedError):
            await task
    for ask in (store.ping(), store.save(None), store.update_heartbeat("c1")):
        with pytest.raises(StoreClosedError):
            await ask


async def test_a_store_is_not_closed_from_another_loop(peer: ScriptedPeer, store: SidecarStore) -> None:
    """It would wait for what only its own loop can do."""

    def elsewhere() -> None:
        asyncio.run(store.close())

    with pytest.raises(RuntimeError, match="this store belongs to the event loop"):
        await asyncio.to_thread(elsewhere)
    assert not store.closed
    (asked,) = soon(store.ping())
    peer.reply((await peer.requests(1))[0], {})
    await asked
    await store.close()
    await asyncio.to_thread(elsewhere)  # it is closed: nothing is left to do


async def test_closing_while_the_daemon_is_away(peer: ScriptedPeer, store: SidecarStore) -> None:
    await peer.stop()
    (task,) = soon(store.ping())
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreClosedError):
        await task


async def test_awaiting_connect_gives_a_store_too(peer: ScriptedPeer) -> None:
    store = await connect(peer.path, "worker-7")
    assert (store.worker_id, store.name, store.path) == ("worker-7", "sidecar", str(peer.path))
    assert await connect_twice(peer) == 2, "each holds its calls by itself"
    await store.close()


async def connect_twice(peer: ScriptedPeer) -> int:
    async with connect(peer.path) as one, connect(peer.path) as two:
        return len({one.worker_id, two.worker_id})


async def test_the_daemons_heartbeat_timeout_is_requested_each_time(
    peer: ScriptedPeer, store: SidecarStore
) -> None:
    for timeout_s in (7, 5):  # it was reloaded
        (task,) = soon(store.default_heartbeat_timeout_s())
        peer.reply((await peer.requests(1))[0], {"heartbeat_timeout_s": timeout_s})
        assert await task == timeout_s
    (task,) = soon(store.default_heartbeat_timeout_s())
    peer.reply((await peer.requests(1))[0], {"name": "an older daemon"})
    assert await task == 30


async def test_a_bad_id_does_not_spoil_the_beats_of_others(peer: ScriptedPeer, store: SidecarStore) -> None:
    bad, good = soon(store.update_heartbeat("not an id"), store.update_heartbeat("c1"))
    (request,) = await peer.requests(1)
    assert request["params"] == {"session_id": "c1"}
    peer.reply(request, {})
    await good
    with pytest.raises(InvalidParamsError):
        await bad


# -- who is not welcome ---------------------------------------------------------------------------------------

REFUSALS: list[WireError] = [
    ConflictError("another live process is registered as 'w1'", owner="w1"),
    InvalidParamsError("not a worker id", path="$.params.worker_id", expected="something else"),
    ForbiddenError("not you"),
]


@pytest.fixture
async def strict(short_dir: Path) -> AsyncIterator[ScriptedPeer]:
    """A peer whose greetings the test answers."""
    peer = ScriptedPeer(short_dir / "s", registers=False)
    await peer.start()
    yield peer
    await peer.stop()


async def question(peer: ScriptedPeer) -> dict[str, object]:
    """Who answers: what is asked first."""
    (request,) = await peer.requests(1)
    assert request["method"] == "server.info"
    return request


async def greeting(peer: ScriptedPeer, **info: object) -> dict[str, object]:
    """Say who answers; gives the registration."""
    peer.reply(await question(peer), {"protocol": 1} | info)
    (request,) = await peer.requests(1)
    assert (request["method"], request["params"]) == ("worker.register", {"worker_id": "w1"})
    return request


async def welcome(peer: ScriptedPeer, request: dict[str, object]) -> None:
    """Take the worker."""
    peer.reply(request, {"worker_id": "w1"})


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.kind)
async def test_a_refusal_that_stands_is_raised_at_once(strict: ScriptedPeer, refusal: WireError) -> None:
    (task,) = soon(connect(strict.path, "w1", wait_s=3600)._connect())
    strict.refuse(await greeting(strict), refusal)
    with pytest.raises(type(refusal)) as caught:
        await task
    assert (str(caught.value), caught.value.data) == (str(refusal), refusal.data)
    await strict.gone.get()
    assert strict.received.empty(), "it is not asked again"


async def test_a_request_to_a_busy_daemon_is_repeated(strict: ScriptedPeer) -> None:
    (task,) = soon(connect(strict.path, "w1", wait_s=3600)._connect())
    strict.refuse(await greeting(strict), OverloadedError("not now"))
    await welcome(strict, await greeting(strict))
    store = await task
    assert isinstance(store, SidecarStore)
    await store.close()


@pytest.mark.parametrize("register", [True, False])
@pytest.mark.parametrize("worker_id", ["", "a b", "w\n", "\N{SNOWMAN}", "w" * 65])
async def test_an_invalid_worker_id_is_refused_without_a_daemon(
    short_dir: Path, worker_id: str, register: bool
) -> None:
    with pytest.raises(InvalidParamsError, match="not a worker id"):
        await connect(short_dir / "nobody", worker_id, wait_s=3600, register=register)


@pytest.mark.parametrize("seconds", [math.nan, -1])
@pytest.mark.parametrize("name", ["wait_s", "timeout_s", "stall_timeout_s", "close_timeout_s"])
def test_a_duration_that_is_none_is_refused(name: str, seconds: float) -> None:
    fronts = (connect, sync.connect) if name in ("wait_s", "timeout_s") else (connect,)
    for front in fronts:
        with pytest.raises(ValueError, match=f"{name} is {seconds}"):
            front(**{name: seconds})


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.kind)
async def test_a_client_refused_on_reconnect_tries_again(
    strict: ScriptedPeer, refusal: WireError, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one may be about to exit, and the next daemon may take what this one does not."""
    (task,) = soon(connect(strict.path, "w1", timeout_s=3600)._connect())
    await welcome(strict, await greeting(strict))
    store = await task
    assert isinstance(store, SidecarStore)
    sent, waits = soon(store.load("c1", timeout_s=0.05), store.add_turn("c1", "user", "x"))
    await strict.requests(2)
    strict.hang_up()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            strict.refuse(await greeting(strict), refusal)
        again = await greeting(strict)
        late = store.load("c1", timeout_s=0.01)
        with pytest.raises(ConnectionLostError, match=str(refusal)):
            await sent
        with pytest.raises(NoDaemonError, match=str(refusal)):
            await late
        await welcome(strict, again)
        (request,) = await strict.requests(1)
        assert request["method"] == "session.add_turn"
        strict.reply(request, VERSION)
        assert await waits == 7
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1, "once, not each time"
    assert str(refusal) in told[0]
    await store.close()


async def test_a_store_says_which_instance_it_is_and_of_which_process(strict: ScriptedPeer) -> None:
    said: list[Any] = []
    for number in range(3):  # the third without that feature
        (task,) = soon(connect(strict.path, "w1", wait_s=3600)._connect())
        strict.reply(await question(strict), {"protocol": 1, "features": ["instance"][: 2 - number]})
        (request,) = await strict.requests(1)
        said.append(request["params"])
        await welcome(strict, request)
        await (await task).close()
    assert said[0]["process"] == said[1]["process"]
    assert said[0]["instance"] != said[1]["instance"]
    assert said[2] == {"worker_id": "w1"}, "an older daemon takes nothing else"


# -- which protocol is spoken ---------------------------------------------------------------------------------


async def test_a_protocol_of_another_version_is_said_at_once(strict: ScriptedPeer) -> None:
    (task,) = soon(connect(strict.path, "w1", wait_s=3600)._connect())
    strict.reply(await question(strict), {"protocol": 2, "version": "9.0"})
    with pytest.raises(UnsupportedProtocolError, match=r"\(9\.0\) speaks protocol 2.* knows 1") as caught:
        await task
    assert caught.value.spoken == 2
    assert strict.received.empty(), "nothing else is said to it"


async def test_a_peer_that_does_not_state_its_protocol_is_left(strict: ScriptedPeer) -> None:
    (task,) = soon(connect(strict.path, "w1", wait_s=0)._connect())
    await question(strict)
    strict.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(NoDaemonError, match="can't be read"):
        await task


async def test_a_daemon_of_another_protocol_in_the_place_of_ours_gets_nothing(strict: ScriptedPeer) -> None:
    (task,) = soon(connect(strict.path, "w1", timeout_s=3600)._connect())
    await welcome(strict, await greeting(strict))
    store = await task
    assert isinstance(store, SidecarStore)
    (waits,) = soon(store.add_turn("c1", "user", "x"))
    await strict.requests(1)
    strict.hang_up()
    strict.reply(await question(strict), {"protocol": 2})
    await welcome(strict, await greeting(strict))
    (request,) = await strict.requests(1)
    strict.reply(request, VERSION)
    assert await waits == 7
    await store.close()


# -- what listens there is something else ---------------------------------------------------------------------


async def test_one_that_never_answers_takes_no_longer_than_one_that_is_not_there(short_dir: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        listener.bind(str(short_dir / "s"))
        listener.listen()
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(NoDaemonError, match="no answer in time") as caught:
            await connect(short_dir / "s", wait_s=0.2, timeout_s=3600)
        assert caught.value.silent
        assert loop.time() - began < 30


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b'{"hello":1}\n', None])
@pytest.mark.parametrize("register", [True, False])
async def test_another_server_is_named_as_not_callstated(
    short_dir: Path, answer: bytes | None, register: bool
) -> None:
    gone = asyncio.Event()

    class Other(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.Transport", transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(answer or data)  # None: an echo

        def connection_lost(self, exc: Exception | None) -> None:
            gone.set()

    async with await asyncio.get_running_loop().create_unix_server(Other, short_dir / "s"):
        with pytest.raises(NoDaemonError, match="does not answer like callstated"):
            await connect(short_dir / "s", wait_s=0, register=register)
        await gone.wait()
