"""The client against a real daemon."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from callstate_client import (
    CallStore,
    ConflictError,
    DocumentError,
    FencedError,
    InvalidParamsError,
    MemoryStore,
    RequestTimeoutError,
    SessionEndedError,
    SessionNotFoundError,
    SessionState,
    SidecarStore,
    TooLargeError,
    Turn,
    WireError,
    connect,
)
from support.daemon import Daemon

pytestmark = pytest.mark.system

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def store(daemon: Daemon) -> AsyncIterator[SidecarStore]:
    async with connect(daemon.socket) as store:
        yield store


def a_call(session_id: str = "c1", **fields: Any) -> SessionState:
    return SessionState(session_id, **({"provider": "sip", "status": "active", "created_at": START} | fields))


async def test_a_call_is_held_over_a_kill_and_a_restart(daemon: Daemon, store: SidecarStore) -> None:
    async with store.hold(a_call(), labels={"app": "sales"}) as call:
        await call.add_turn("user", "before the kill", 900)
        call.add_turn("agent", "under way")
        await daemon.in_thread("kill")
        queued = [call.add_turn("user", f"while it is down {n}") for n in range(20)]
        call.amend_last_turn(content="amended", extra={"interrupted": True})
        call.record_interruption()
        update = call.update(status="on_hold", recovery_data={"node": "menu"})
        assert not any(future.done() for future in queued)
        await daemon.in_thread("start")
        await update
        kept = await store.get("c1")
        kept.state.updated_at = call.state.updated_at
        assert kept.state == call.state
        assert kept.labels == {"app": "sales"}
        call.add_turn("user", "before the restart")
        await daemon.in_thread("restart")
        await call.add_turn("user", "after the restart")
    record = await store.get("c1")
    assert (record.ended_reason, record.turn_count) == ("completed", 24)
    assert [turn.content for turn in record.state.history] == [turn.content for turn in call.state.history]


async def test_every_acknowledged_turn_is_there_once_however_often_it_is_killed(
    daemon: Daemon, store: SidecarStore
) -> None:
    stop = asyncio.Event()
    acknowledged: dict[str, list[str]] = {}

    async def talk(session_id: str) -> None:
        said = acknowledged[session_id] = []
        async with store.hold(a_call(session_id)) as call:
            while not stop.is_set():
                text = f"{session_id}-{len(call.state.history)}"
                await call.add_turn("user", text)
                said.append(text)

    calls = [asyncio.ensure_future(talk(f"c{n}")) for n in range(5)]
    for _ in range(3):
        so_far = sum(map(len, acknowledged.values()))
        while sum(map(len, acknowledged.values())) < so_far + 100:
            await asyncio.sleep(0)
        await daemon.in_thread("kill")
        await daemon.in_thread("start")
    stop.set()
    await asyncio.gather(*calls)
    for session_id, said in acknowledged.items():
        assert [turn.content for turn in (await store.load(session_id)).history] == said


async def test_a_turn_is_amended_over_a_restart_whatever_others_say(daemon: Daemon, store: SidecarStore) -> None:
    async with connect(daemon.socket, register=False) as operator, store.hold(a_call()) as call:
        turn = call.add_turn("agent", "how are you today")
        await turn
        await operator.add_turn("c1", "user", "from elsewhere")
        await daemon.in_thread("kill")
        call.add_turn("user", "wait")
        amended = turn.amend(content="how are", extra={"interrupted": True})
        last = call.amend_last_turn(role="user", content="wait!")
        await daemon.in_thread("start")
        await asyncio.gather(amended, last)
        kept = await store.load("c1")
        assert [turn.content for turn in kept.history] == ["how are", "from elsewhere", "wait!"]


async def test_the_loss_of_a_call_is_known_at_once(daemon: Daemon, store: SidecarStore) -> None:
    async with connect(daemon.socket, "another") as other:
        loop = asyncio.get_running_loop()
        with pytest.raises(FencedError, match="claimed by"):
            async with store.hold(a_call(), cancel_on_lost=True):
                await other.claim("c1", steal=True)
                stolen = loop.time()
                await asyncio.sleep(60)
        assert loop.time() - stolen < 3, "the next heartbeat is due after ten seconds"
        call = await store.open_call(a_call("c2"), max_duration_s=0.2)
        async with asyncio.timeout(8):
            error = await call.wait_lost()
        assert isinstance(error, SessionEndedError)
        assert error.reason == "max_duration"


async def test_draining_is_known_from_the_registration_and_at_once(daemon: Daemon, store: SidecarStore) -> None:
    waiting = asyncio.create_task(store.wait_draining())
    async with connect(daemon.socket, register=False) as operator:
        await operator.drain()
        async with asyncio.timeout(8):
            await waiting
        assert store.draining
        async with connect(daemon.socket) as late:
            assert late.draining


async def test_requests_in_flight_survive_a_kill(daemon: Daemon, store: SidecarStore) -> None:
    for n in range(8):
        await store.save(a_call(f"c{n}"))
    daemon.signal(signal.SIGSTOP)
    asks = [asyncio.ensure_future(store.load(f"c{n}", timeout_s=20)) for n in range(8)]
    turns = [asyncio.ensure_future(store.add_turn(f"c{n}", "user", "x", timeout_s=20)) for n in range(8)]
    await asyncio.sleep(0)
    await daemon.in_thread("kill")
    await daemon.in_thread("start")
    assert [state.id for state in await asyncio.gather(*asks)] == [f"c{n}" for n in range(8)]
    await asyncio.gather(*turns)
    for n in range(8):
        assert len((await store.load(f"c{n}")).history) == 1


async def test_mutations_of_the_store_and_of_its_call_keep_their_order_over_a_restart(
    daemon: Daemon, store: SidecarStore
) -> None:
    async with store.hold(a_call()) as call:
        await daemon.in_thread("kill")
        call.add_turn("user", "1")
        others = [asyncio.ensure_future(store.add_turn("c1", "agent", "2", timeout_s=20))]
        await asyncio.sleep(0)
        call.add_turn("user", "3")
        others.append(asyncio.ensure_future(store.update("c1", status="on_hold", timeout_s=20)))
        await asyncio.sleep(0)
        await daemon.in_thread("start")
        await call.add_turn("user", "4")
        await asyncio.gather(*others)
        state = await store.load("c1")
        assert [turn.content for turn in state.history] == ["1", "2", "3", "4"]
        assert state.status == "on_hold"


async def test_a_daemon_that_stands_still_is_a_timeout(daemon: Daemon, store: SidecarStore) -> None:
    daemon.signal(signal.SIGSTOP)
    with pytest.raises(RequestTimeoutError):
        await store.ping(timeout_s=0.05)
    daemon.signal(signal.SIGCONT)
    await store.ping(timeout_s=20)


async def test_beats_by_themselves_keep_a_call_and_silence_ends_it() -> None:
    options = ("heartbeat_timeout_s=0.6", "grace_s=0.2", "tick_s=0.02")
    with Daemon(*(part for option in options for part in ("--set", f"reaper.{option}"))) as daemon:
        async with connect(daemon.socket) as store, store.hold(a_call("kept"), heartbeat_timeout_s=0.6):
            await store.save(a_call("dead"))
            await store.add_turn("dead", "user", "hello?")
            while (await store.get("dead")).ended_reason is None:
                await asyncio.sleep(0.02)
            record = await store.get("dead")
            assert (record.ended_reason, record.turn_count) == ("heartbeat_timeout", 1)
            assert await store.list_active() == ["kept"]
            for late in (store.update_heartbeat("dead"), store.add_turn("dead", "user", "x")):
                with pytest.raises(SessionEndedError):
                    await late


async def test_a_line_too_long_costs_its_own_call(store: SidecarStore) -> None:
    await store.save(a_call())
    too_long = store.save(a_call("c2", recovery_data={"x": "x" * 1_100_000}))
    outcomes = await asyncio.gather(
        store.load("c1"), too_long, store.update_heartbeat("c1"), return_exceptions=True
    )
    assert isinstance(outcomes[0], SessionState)
    assert isinstance(outcomes[1], TooLargeError)
    assert outcomes[2] is None


async def test_a_session_larger_than_a_line_comes_back_whole(store: SidecarStore) -> None:
    async with store.hold(a_call()) as call:
        for n in range(6):
            await call.add_turn("user", f"{n}" * 500_000)
        assert (await store.load("c1")).history == call.state.history


async def test_flush_and_the_store_behind(daemon: Daemon, store: SidecarStore) -> None:
    await store.save(a_call())
    result = await store.flush(["c1"])
    assert (result.flushed, result.unflushed) == (1, 0)
    assert (await store.stats())["store"] == "up"
    assert (await store.info())["name"] == "callstated"


async def script(store: CallStore) -> list[Any]:
    """One of everything; gives what came of it, without what differs from run to run."""
    outcomes: list[Any] = []

    async def note(ask: Any) -> Any:
        try:
            result = await ask
        except (WireError, DocumentError) as error:
            outcomes.append((type(error), getattr(error, "path", None)))
            return None
        outcomes.append(type(result) if isinstance(result, int) else result)
        return result

    state = a_call(recovery_data={"a": 1}, history=[Turn("user", "one", timestamp=START)])
    first = await note(store.save(state, if_version=0, labels={"app": "sales"}))
    await note(store.save(a_call(), if_version=0))
    await note(store.save(a_call(), if_version=first - 1))
    await note(store.add_turn("c1", "agent", "two", 5, at=START, extra={"x": [1]}))
    await note(store.amend_last_turn("c1", content="2", duration_ms=3, extra={"x": None, "y": 1}))
    await note(store.amend_last_turn("c1", extra={"role": 5}))
    await note(store.amend_last_turn("c1", extra={"timestamp": "yesterday"}))
    await note(store.record_interruption("c1"))
    await note(
        store.update("c1", status="on_hold", from_="+1", extra={"campaign": 7}, metrics={"first_response_ms": 3})
    )
    await note(store.update("c1", if_version=first, status="active"))
    await note(store.update("c1", status=5))
    await note(store.update("c1", status="x" * 65))
    await note(store.update("c1", created_at="yesterday"))
    await note(store.load("c9"))
    await note(store.update_heartbeat("c9"))
    await note(store.update_heartbeat("c1"))
    await note(store.end("c9"))
    await note(store.delete("c9"))
    await note(store.save(a_call("active")))
    await note(store.save(a_call(provider="x" * 65)))
    await note(store.save(a_call(), labels={"x" * 65: ""}))
    await note(store.save(a_call(), heartbeat_timeout_s=-1))
    await note(store.save(await store.load("c1", 1)))
    await note(store.save(a_call("c2", status="ended")))
    await note(store.amend_last_turn("c2", content="x"))
    await note(store.end("c1", "caller_hangup"))
    await note(store.end("c1", "again"))
    await note(store.update_heartbeat("c1"))
    await note(store.add_turn("c1", "user", "late", at=START))
    await note(store.list_active())
    for history in ("all", "none", 0, 1, 99, "some"):
        record = await note(store.get("c1", history))
        if record is not None:
            # of the clock, not of the rules
            record.version, record.state.updated_at = 0, START
    since = datetime.now(UTC) - timedelta(hours=1)
    for filters in ({}, {"status": "ended"}, {"labels": {"app": "sales"}}, {"owner": "w"}, {"ended_since": since}):
        listed = [record.state.id async for record in store.sessions(**filters)]  # type: ignore[arg-type]
        outcomes.append(listed)
    await note(store.save(a_call("c2", status="active")))
    await note(store.list_active())
    return outcomes


async def test_memory_answers_as_the_daemon_does(store: SidecarStore) -> None:
    real, standing_in = await script(store), await script(MemoryStore(worker_id=store.worker_id))
    for index, (one, other) in enumerate(zip(real, standing_in, strict=True)):
        assert one == other, f"outcome {index}"


async def test_pages(store: SidecarStore) -> None:
    many = [f"c{n}" for n in range(1001)]
    await asyncio.gather(*(store.save(a_call(session_id)) for session_id in many))
    assert sorted(await store.list_active()) == sorted(many)
    assert sorted([record.state.id async for record in store.sessions(provider="sip")]) == sorted(many)


async def test_two_clients_and_versions(daemon: Daemon, store: SidecarStore) -> None:
    async with connect(daemon.socket, register=False) as other:
        version = await store.save(a_call())
        await other.update("c1", if_version=version, status="on_hold")
        with pytest.raises(ConflictError):
            await store.update("c1", if_version=version, status="active")
        await other.delete("c1")
        with pytest.raises(SessionNotFoundError):
            await store.load("c1")
        with pytest.raises(InvalidParamsError):
            await store.load("c1", "some")
