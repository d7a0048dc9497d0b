"""Workers and a real daemon: who holds a call, who takes it over, and what a worker that hangs or dies leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from threading import Event

import pytest

from callstate_client import (
    ConflictError,
    ConnectionLostError,
    FencedError,
    SessionState,
    SidecarStore,
    Status,
    connect,
)
from support.daemon import Daemon

SETTINGS = {"reaper.tick_s": 0.02, "reaper.grace_s": 30}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon(*(part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}"))) as running:
        yield running


def a_call(session_id: str) -> SessionState:
    return SessionState(session_id, provider="sip", status=Status.ACTIVE)


async def told(store: SidecarStore, *types: str) -> asyncio.Task[str | None]:
    """The session that the next of these events is about, in a task that is listening already."""
    events = store.events(*types)
    await events.open()

    async def first() -> str | None:
        async with events:
            return (await anext(events)).session_id

    return asyncio.create_task(first())


async def test_a_call_is_its_workers_until_it_is_stolen(daemon: Daemon) -> None:
    async with connect(daemon.socket, "w1") as one, connect(daemon.socket, "w2") as two:
        async with one.hold(a_call("stolen"), beat="manual") as call:
            record = await two.get("stolen")
            assert (record.owner, call.lost) == ("w1", None)
            with pytest.raises(ConflictError):
                async with two.hold("stolen"):
                    pass
            async with two.hold("stolen", steal=True) as taken:
                assert taken.epoch == 1
                with pytest.raises(FencedError):
                    await call.beat()
                assert isinstance(call.lost, FencedError)
                with pytest.raises(FencedError):
                    await call.add_turn("agent", "too late")
                await taken.add_turn("agent", "in time")
            call.released = True  # it is over; nothing of ours is to be said about it
        assert (await one.get("stolen")).turn_count == 1


async def test_a_crash_releases_and_another_worker_recovers(daemon: Daemon) -> None:
    async with connect(daemon.socket, "w1") as one, connect(daemon.socket, "w2") as two:
        with pytest.raises(ZeroDivisionError):
            async with one.hold(a_call("released"), labels={"test": "released"}) as call:
                call.add_turn("user", "hello")
                raise ZeroDivisionError
        recovered = [found async for found in two.recover(labels={"test": "released"})]
        assert [found.id for found in recovered] == ["released"]
        async with recovered[0] as call:
            assert call.state.history[-1].content == "hello"
        record = await two.get("released")
        assert (record.ended_reason, record.owner, record.epoch) == ("completed", "w2", 1)


WORKER = """
import asyncio, sys
from callstate_client import SessionState, connect

async def main():
    async with connect(sys.argv[1], "victim") as store:
        async with store.hold(SessionState(sys.argv[2], status="active"), labels={"test": sys.argv[2]}) as call:
            await call.add_turn("user", "hello")
            print("held", flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_workers_call_comes_to_who_watches(daemon: Daemon) -> None:
    async with connect(daemon.socket, "w2") as store:
        calls = store.recover(labels={"test": "killed"}, watch=True)
        first = asyncio.ensure_future(anext(calls))
        victim = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, str(daemon.socket), "killed", stdout=subprocess.PIPE
        )
        assert victim.stdout is not None
        assert await victim.stdout.readline() == b"held\n"
        victim.kill()
        async with await first as call:
            assert (call.id, len(call.state.history), call.epoch) == ("killed", 1, 1)
        await victim.wait()
        await calls.aclose()


async def test_a_stopped_worker_is_suspected_and_comes_back(daemon: Daemon) -> None:
    async with connect(daemon.socket, register=False) as store:
        victim = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER.replace("as call", "heartbeat_timeout_s=0.3) as call").replace(
                'labels={"test": sys.argv[2]}) ', 'labels={"test": sys.argv[2]}, '
            ), str(daemon.socket), "hung", stdout=subprocess.PIPE,
        )  # fmt: skip
        assert victim.stdout is not None
        assert await victim.stdout.readline() == b"held\n"
        suspect, recovered = await told(store, "suspect"), await told(store, "recovered")
        victim.send_signal(signal.SIGSTOP)
        assert await suspect == "hung"
        victim.send_signal(signal.SIGCONT)
        assert await recovered == "hung"
        victim.kill()
        await victim.wait()


async def test_a_busy_loop_is_alive_and_a_stalled_one_is_not(daemon: Daemon) -> None:
    async with (
        connect(daemon.socket, register=False) as watching,
        connect(daemon.socket, "slow", stall_timeout_s=0.4) as store,
        store.hold(a_call("slow"), heartbeat_timeout_s=0.3),
    ):
        told_of = await told(watching, "suspect")
        hang = Event()
        hang.wait(0.35)  # the loop stands still for longer than a heartbeat timeout, and for less than a stall
        assert (await watching.stats())["suspects"] == 0
        hang.wait(1.2)  # and now for long enough to be suspected
        assert await told_of == "slow"


async def test_a_forked_child_holds_nothing_and_connects_anew(daemon: Daemon) -> None:
    async with connect(daemon.socket, "parent") as store, store.hold(a_call("forked")) as call:
        pid = os.fork()
        if pid == 0:  # the child: no pytest, no cleaning up of what is the parent's
            status = 1
            try:
                asyncio._set_running_loop(None)

                async def child() -> None:
                    assert isinstance(call.lost, ConnectionLostError)
                    assert store.worker_id == f"parent.{os.getpid()}"
                    await store.ping()
                    assert (await store.get("forked")).owner == "parent"

                asyncio.new_event_loop().run_until_complete(child())
                status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0
        assert call.lost is None
        await call.add_turn("user", "still here")
