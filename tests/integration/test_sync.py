"""The blocking front against a real daemon."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from callstate_client import (
    CallstateError,
    CallStore,
    ConflictError,
    FencedError,
    Record,
    RequestTimeoutError,
    SessionNotFoundError,
    SessionState,
    TooLargeError,
    Turn,
    connect,
    sync,
)
from callstate_client.protocol import CheckResult, DrainResult, FlushResult, Setting
from support.daemon import Daemon

pytestmark = pytest.mark.system

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WITHIN_S = 30.0


@pytest.fixture
def store(daemon: Daemon) -> Iterator[sync.Store]:
    with sync.connect(daemon.socket, timeout_s=WITHIN_S) as store:
        yield store


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def a_call(session_id: str = "c1", **fields: Any) -> SessionState:
    return SessionState(session_id, **({"provider": "sip", "status": "active", "created_at": START} | fields))


# -- the same questions, the same answers -----------------------------------------------------------------------

Step = tuple[str, tuple[Any, ...], dict[str, Any]]


def step(name: str, *args: Any, **options: Any) -> Step:
    return name, args, options


def script() -> list[Step]:
    """One of everything, also of what is refused."""
    return [
        step("ping"),
        step("save", None),
        step("save", a_call(recovery_data={"a": 1}), if_version=0, labels={"app": "sales"}, heartbeat_timeout_s=60),
        step("save", a_call(), if_version=0),
        step("save", a_call("not an id")),
        step("save", a_call("c2", history=[Turn("user", "one", timestamp=START)]), max_duration_s=300_000_000),
        step("save", a_call("c2"), labels={"x" * 65: ""}),
        step("save", a_call("c2", recovery_data={"x": "x" * 1_100_000})),
        step("add_turn", "c1", "user", "hello", 900, at=START, extra={"x": [1]}),
        step("add_turn", "c9", "user", "hello", at=START),
        step("add_turn", "c1", "x" * 65, "hello", at=START),
        step("amend_last_turn", "c1", content="hell", duration_ms=700, extra={"x": None, "y": 'a "b" \\'}),
        step("amend_last_turn", "c1", extra={"role": 5}),
        step("amend_last_turn", "c1", role="user", content="hello again"),
        step("amend_last_turn", "c1", role="agent", content="nobody's"),
        step("amend_turn", "c1", 0, content="hello once more"),
        step("amend_turn", "c1", 7, content="none"),
        step("record_interruption", "c1"),
        step("update", "c1", status="on_hold", from_="+1", extra={"campaign": 7}, metrics={"first_response_ms": 3}),
        step("update", "c1", if_version=1, status="active"),
        step("update", "c1", id="c2"),
        step("update", "c1", statsu="on_hold"),
        step("update", "c1", labels={"app": "support"}, heartbeat_timeout_s=50, provider="other"),
        step("get", "c1"),
        step("update", "c1", if_version=1, labels={"app": "x"}),
        step("update", "c9", labels={"app": "x"}),
        step("update_heartbeat", "c1"),
        step("update_heartbeat", "c9"),
        step("load", "c1"),
        step("load", "c1", "some"),
        step("load", "c9"),
        *(step("get", "c1", history) for history in ("all", "none", 0, 1, 99)),
        step("list_active"),
        step("sessions"),
        step("sessions", labels={"app": "support"}),
        step("sessions", status="active", provider="sip", owner="w", call_id="x", ended_since=START),
        step("flush", ["c1"]),
        step("claim", "c9"),
        step("claim_next"),
        step("recover", labels={"app": "nobody's"}),
        step("release", "c1", 7),
        step("drain", False),
        step("check"),
        step("quarantined"),
        step("show_quarantined", "c1"),
        step("retry_quarantined", ["c1"]),
        step("drop_quarantined", "c1"),
        step("end", "c1", "caller_hangup", {"cause": 16}),
        step("end", "c1", "again"),
        step("update_heartbeat", "c1"),
        step("sessions", ended_since=START),
        step("delete", "c2"),
        step("delete", "c2"),
        step("list_active"),
        step("stats"),
        step("info"),
        step("features"),
        step("settings"),
        step("close"),
        step("close"),
        step("ping"),
    ]


ITERATED = ("sessions", "quarantined", "recover")


def settled(result: Any) -> Any:
    """What came, without what differs from daemon to daemon and from moment to moment."""
    if isinstance(result, CallstateError):
        return type(result), getattr(result, "path", None)
    if isinstance(result, Record):
        return settled(result.state), result.labels, result.ended_reason, result.history_from, result.turn_count
    if isinstance(result, SessionState):
        result.updated_at = START
        return result.to_json(), result.history_from
    if isinstance(result, Setting):
        return type(result)
    if isinstance(result, dict | frozenset):
        return set(result)
    if isinstance(result, list):
        return [settled(item) for item in result]
    assert result is None or isinstance(result, int | str | FlushResult | DrainResult | CheckResult)
    return type(result) if isinstance(result, int) else result


def played(store: sync.Store, steps: list[Step]) -> Iterator[Any]:
    for name, args, options in steps:
        try:
            result = getattr(store, name)(*args, **options)
            yield settled([*result] if name in ITERATED else result)
        except CallstateError as error:
            yield settled(error)


async def played_by_asyncio(store: CallStore, steps: list[Step]) -> list[Any]:
    outcomes = []
    for name, args, options in steps:
        try:
            asked = getattr(store, name)(*args, **options)
            result = [record async for record in asked] if name in ITERATED else await asked
        except CallstateError as error:
            result = error
        outcomes.append(settled(result))
    return outcomes


async def test_both_fronts_get_the_same_answers(store: sync.Store) -> None:
    ours = list(played(store, script()))
    with Daemon() as other:
        theirs = await played_by_asyncio(await connect(other.socket), script())
    for (name, *asked), one, two in zip(script(), ours, theirs, strict=True):
        assert one == two, (name, asked)


def test_the_script_has_every_method() -> None:
    methods = {name for name in dir(sync.Store) if callable(getattr(sync.Store, name)) and not name.startswith("_")}
    assert {name for name, *_ in script()} == methods - {"request", "new_op", "hold", "workers", "erase"}


def test_workers_are_listed(daemon: Daemon) -> None:
    with sync.connect(daemon.socket, worker_id="w1") as store:
        assert [worker.worker_id for worker in store.workers()] == ["w1"]


def test_a_call_is_erased(store: sync.Store) -> None:
    store.save(a_call("c1"))
    with pytest.raises(ConflictError):
        store.erase("c1")
    store.erase("c1", end=True)
    with pytest.raises(SessionNotFoundError):
        store.load("c1")


def test_requests_of_ones_own(store: sync.Store) -> None:
    assert b'"name":"callstated"' in store.request("server.info")


def test_pages(store: sync.Store) -> None:
    many = [f"c{n}" for n in range(1001)]
    for session_id in many:
        store.save(a_call(session_id))
    assert sorted(store.list_active()) == sorted(many)
    assert sorted(record.state.id for record in store.sessions(provider="sip")) == sorted(many)


def test_large_requests_and_replies(store: sync.Store) -> None:
    state = a_call()
    store.save(state)
    for n in range(6):
        turn = state.add_turn("user", f"{n}" * 500_000)
        store.add_turn("c1", turn.role, turn.content, at=turn.timestamp)
    assert store.load("c1").history == state.history
    with pytest.raises(TooLargeError):
        store.add_turn("c1", "user", "x" * 1_100_000)
    assert store.load("c1", 1).history == state.history[-1:]


# -- daemons that go --------------------------------------------------------------------------------------------


def test_calls_go_on_over_a_restart_and_a_kill(daemon: Daemon, store: sync.Store) -> None:
    store.save(a_call())
    version = store.add_turn("c1", "user", "before")
    daemon.restart()
    assert store.get("c1").version == version
    store.update_heartbeat("c1")
    store.add_turn("c1", "user", "between")
    daemon.kill()
    daemon.start()
    store.add_turn("c1", "user", "after")
    assert [turn.content for turn in store.load("c1").history] == ["before", "between", "after"]


def test_a_call_waits_for_the_daemon(daemon: Daemon, store: sync.Store, threads: ThreadPoolExecutor) -> None:
    store.save(a_call())
    daemon.kill()
    waiting = [threads.submit(store.add_turn, "c1", "user", "x"), threads.submit(store.update_heartbeat, "c1")]
    daemon.start()
    for asked in waiting:
        asked.result(WITHIN_S)
    assert len(store.load("c1").history) == 1


def test_every_acknowledged_turn_is_there_once_however_often_it_is_killed(
    daemon: Daemon, store: sync.Store, threads: ThreadPoolExecutor
) -> None:
    stop = threading.Event()
    acknowledged: dict[str, list[str]] = {f"c{n}": [] for n in range(5)}
    progress = threading.Semaphore(0)

    def talk(session_id: str) -> None:
        said = acknowledged[session_id]
        store.save(a_call(session_id))
        while not stop.is_set():
            text = f"{session_id}-{len(said)}"
            store.add_turn(session_id, "user", text)
            said.append(text)
            progress.release()

    calls = [threads.submit(talk, session_id) for session_id in acknowledged]
    try:
        for _ in range(3):
            for _ in range(200):
                assert progress.acquire(timeout=WITHIN_S)
            daemon.kill()
            daemon.start()
    finally:
        stop.set()
    for call in calls:
        call.result(WITHIN_S)
    for session_id, said in acknowledged.items():
        assert [turn.content for turn in store.load(session_id).history] == said


def test_requests_in_flight_survive_a_kill(daemon: Daemon, store: sync.Store, threads: ThreadPoolExecutor) -> None:
    for n in range(8):
        store.save(a_call(f"c{n}"))
    daemon.signal(signal.SIGSTOP)
    asks = [threads.submit(store.load, f"c{n}") for n in range(8)]
    turns = [threads.submit(store.add_turn, f"c{n}", "user", "x") for n in range(8)]
    daemon.kill()
    daemon.start()
    assert [asked.result(WITHIN_S).id for asked in asks] == [f"c{n}" for n in range(8)]
    for turn in turns:
        turn.result(WITHIN_S)
    for n in range(8):
        assert len(store.load(f"c{n}").history) == 1


def test_a_daemon_that_stands_still_is_a_timeout(daemon: Daemon, store: sync.Store) -> None:
    store.save(a_call())
    store.update_heartbeat("c1")
    daemon.signal(signal.SIGSTOP)
    asks: list[Callable[[], Any]] = [
        lambda: store.ping(timeout_s=0.05),
        lambda: store.update_heartbeat("c1", timeout_s=0.05),
        lambda: store.load("c1", timeout_s=0.05),
        lambda: store.save(a_call("c2", recovery_data={"x": "x" * 900_000}), timeout_s=0.05),
    ]
    for ask in asks:
        with pytest.raises(RequestTimeoutError):
            ask()
    daemon.signal(signal.SIGCONT)
    store.update_heartbeat("c1")
    assert store.load("c1").id == "c1"


# -- threads and processes --------------------------------------------------------------------------------------


def test_many_threads_on_many_sessions_and_on_one(store: sync.Store, threads: ThreadPoolExecutor) -> None:
    for session_id in ("shared", *(f"own{n}" for n in range(8))):
        store.save(a_call(session_id))

    def work(n: int) -> None:
        for turn in range(40):
            store.add_turn(f"own{n}", "user", f"{n}-{turn}")
            store.add_turn("shared", "user", f"{n}-{turn}")
            store.update_heartbeat(f"own{n}")
            assert store.load(f"own{n}", 1).history[0].content == f"{n}-{turn}"

    for done in [threads.submit(work, n) for n in range(8)]:
        done.result(WITHIN_S)
    shared = [turn.content for turn in store.load("shared").history]
    assert len(shared) == 320
    for n in range(8):
        in_order = [f"{n}-{turn}" for turn in range(40)]
        assert [turn.content for turn in store.load(f"own{n}").history] == in_order
        assert [content for content in shared if content.startswith(f"{n}-")] == in_order
    connections = store.stats()["connections"]
    assert connections <= 8 + 1


FORK = """
import os, sys, threading
from callstate_client import SessionState
from callstate_client.sync import connect

store = connect(sys.argv[1])
for name in ("parent", "child"):
    store.save(SessionState(name, status="active"))
store.update_heartbeat("child")
held = len(os.listdir("/dev/fd"))
idle = [*store._pool._ours().idle]
child = os.fork()
mine = "parent" if child else "child"
for n in range(200):  # at the same time as the other
    assert store.load(mine).id == mine
    store.update_heartbeat(mine)
    store.add_turn(mine, "user", f"{mine}-{n}")
assert len(os.listdir("/dev/fd")) == held  # the child's connection is there instead of the parent's
if not child:
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
store.update_heartbeat("parent")
assert store._pool._ours().idle == idle  # the child has left the parent's connection as it was
for name in ("parent", "child"):
    assert [turn.content for turn in store.load(name).history] == [f"{name}-{n}" for n in range(200)]
store.close()
print("done")
"""


def test_a_forked_child_connects_again(daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, str(daemon.socket)],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_two_stores_and_versions(daemon: Daemon, store: sync.Store) -> None:
    with sync.connect(daemon.socket) as other:
        version = store.save(a_call())
        other.update("c1", if_version=version, status="on_hold")
        with pytest.raises(ConflictError):
            store.update("c1", if_version=version, status="active")
        other.delete("c1")
        with pytest.raises(SessionNotFoundError):
            store.load("c1")


# -- workers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("worker_id", ["w1", None])
def test_a_stolen_call_accepts_nothing_from_its_former_claimer(daemon: Daemon, worker_id: str | None) -> None:
    with sync.connect(daemon.socket) as other, sync.connect(daemon.socket, worker_id=worker_id) as store:
        other.save(a_call())
        assert store.claim("c1").epoch == 1
        store.add_turn("c1", "user", "hello")
        assert other.claim("c1", steal=True).epoch == 2
        late: list[Callable[[], object]] = [
            lambda: store.add_turn("c1", "user", "late"),
            lambda: store.update("c1", status="on_hold"),
            lambda: store.record_interruption("c1"),
            lambda: store.save(a_call()),
            lambda: store.end("c1"),
            lambda: store.delete("c1"),
        ]
        for mutation in late:
            with pytest.raises(FencedError):
                mutation()
        if worker_id is not None:
            with pytest.raises(FencedError):
                store.update_heartbeat("c1")
        other.add_turn("c1", "agent", "in time")
        assert [turn.content for turn in other.load("c1").history] == ["hello", "in time"]


def test_a_mutation_is_for_the_epoch_that_it_gives(daemon: Daemon) -> None:
    with sync.connect(daemon.socket, worker_id="w1") as store:
        store.save(a_call())
        assert store.claim("c1").epoch == 0, "its own"
        given: list[Callable[[int], object]] = [
            lambda epoch: store.add_turn("c1", "user", "hello", epoch=epoch),
            lambda epoch: store.amend_last_turn("c1", content="hi", epoch=epoch),
            lambda epoch: store.amend_turn("c1", 0, content="hey", epoch=epoch),
            lambda epoch: store.record_interruption("c1", epoch=epoch),
            lambda epoch: store.update("c1", epoch=epoch, status="on_hold"),
            lambda epoch: store.update("c1", epoch=epoch, labels={"a": "b"}),
            lambda epoch: store.save(a_call(), epoch=epoch),
            lambda epoch: store.end("c1", epoch=epoch),
            lambda epoch: store.delete("c1", epoch=epoch),
        ]
        for mutation in given:
            with pytest.raises(FencedError):
                mutation(7)
            mutation(0)


WORKER = """
import sys, time
from callstate_client import SessionState, sync
store = sync.connect(sys.argv[1], worker_id="w1")
store.save(SessionState("c1", provider="sip", status="active"))
print("saved", flush=True)
time.sleep(3600)
"""


def test_a_blocking_workers_death_leaves_its_calls_to_be_recovered(daemon: Daemon) -> None:
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(daemon.socket)], stdout=subprocess.PIPE)
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"saved\n"
        with sync.connect(daemon.socket, worker_id="w2") as store:
            assert (store.get("c1").owner, store.claim_next()) == ("w1", None)
            with pytest.raises(ConflictError):
                sync.connect(daemon.socket, worker_id="w1")
            worker.kill()
            worker.wait()
            while (record := store.claim_next()) is None:  # the daemon is told of it by the kernel
                pass
            assert (record.state.id, record.epoch) == ("c1", 1)
    finally:
        worker.kill()
        worker.communicate()
