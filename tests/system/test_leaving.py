"""Workers that are told to stop while calls have turns queued: real processes, real signals, a real daemon."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress

import pytest

from callstate_client import Record, SessionState, UndeliveredError, connect
from support.daemon import Daemon

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_factories=["asyncio"]), pytest.mark.timeout(120)]

WITHIN_S = 60.0

WORKER = """
import asyncio, signal, sys
from callstate_client import SessionState, connect
import uvloop

path, way, loop_name = sys.argv[1:]
TURNS = 20

def line():
    return asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

async def handle(store, held):
    async with store.hold(SessionState("c1")) as call:
        await call.add_turn("user", "0")
        held.set_result(call)
        await asyncio.Event().wait()

def queue(call):
    for n in range(1, TURNS):
        call.add_turn("user", str(n))
    call.update(status="on_hold")

async def main():
    loop = asyncio.get_running_loop()
    held = loop.create_future()
    if way == "own_block":
        loop.add_signal_handler(signal.SIGTERM, cancel_all)
        async with connect(path) as store, store.hold(SessionState("c1")) as call:
            await call.add_turn("user", "0")
            await begin(call)
    async with connect(path) as store:
        task = asyncio.create_task(handle(store, held))
        call = await held
        if way == "task_group":
            async with asyncio.TaskGroup() as group:
                group.create_task(begin(call))
        elif way == "stop":
            loop.add_signal_handler(signal.SIGTERM, loop.stop)
        elif way == "cancel_all":
            loop.add_signal_handler(signal.SIGTERM, cancel_all)
        elif way == "cancel_twice":
            loop.add_signal_handler(signal.SIGTERM, lambda: (task.cancel(), cancel_all()))
        await begin(call)

def cancel_all():
    for task in asyncio.all_tasks():
        task.cancel()

async def begin(call):
    print("held", flush=True)
    await line()
    queue(call)
    print("queued", flush=True)
    number = signal.SIGINT if way in ("interrupt", "task_group", "no_close") else signal.SIGTERM
    signal.raise_signal(number)
    await asyncio.Event().wait()

async def without_close():
    store = await connect(path)
    held = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(handle(store, held))
    await begin(await held)

with asyncio.Runner(loop_factory={"asyncio": asyncio, "uvloop": uvloop}[loop_name].new_event_loop) as runner:
    runner.run(without_close() if way == "no_close" else main())
"""


class Worker:
    """The process above."""

    def __init__(self, daemon: Daemon, way: str, loop: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(daemon.socket), way, loop],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def says(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let it queue, and stop itself."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def errors(self) -> str:
        """What it has written to stderr until its end."""
        return self.process.communicate(timeout=WITHIN_S)[1]

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate()


async def kept(daemon: Daemon) -> Record:
    async with connect(daemon.socket, register=False) as store:
        return await store.get("c1")


WAYS = ["interrupt", "task_group", "no_close", "cancel_all", "cancel_twice", "own_block", "stop"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("is_down", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_worker_delivers_before_it_stops(daemon: Daemon, way: str, is_down: bool, loop: str) -> None:
    worker = Worker(daemon, way, loop)
    try:
        assert worker.says() == "held"
        if is_down:
            await daemon.in_thread("kill")
        worker.go()
        assert worker.says() == "queued"
        if is_down:
            await daemon.in_thread("start")
        errors = await asyncio.to_thread(worker.errors)
    finally:
        worker.close()
    record = await kept(daemon)
    assert [turn.content for turn in record.state.history] == [str(n) for n in range(20)], errors
    assert (record.state.status, record.owner) == ("on_hold", None), "released, and not ended"
    assert "not acknowledged" not in errors
    assert "destroyed" not in errors


async def test_a_call_that_ends_in_an_outage_is_delivered_when_the_daemon_is_back(daemon: Daemon) -> None:
    async with connect(daemon.socket, close_timeout_s=0.1) as store:
        with pytest.raises(UndeliveredError) as caught:
            async with store.hold(SessionState("c1")) as call:
                await call.add_turn("user", "before")
                await daemon.in_thread("kill")
                for n in range(7):
                    call.add_turn("user", str(n))
        assert sum(caught.value.unsent.values()) + sum(caught.value.unknown.values()) == 8, (
            "seven turns and the end"
        )
        assert caught.value.going_on
        await daemon.in_thread("start")
        await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "callstate-outbox-c1"])
        record = await store.get("c1")
    assert [turn.content for turn in record.state.history] == ["before", *map(str, range(7))]
    assert record.ended_reason == "completed"


async def test_a_store_that_is_closed_in_an_outage_says_what_is_lost(daemon: Daemon) -> None:
    store = await connect(daemon.socket, close_timeout_s=0.1)
    call = await store.hold(SessionState("c1")).__aenter__()
    await daemon.in_thread("kill")
    call.add_turn("user", "never sent")
    with pytest.raises(UndeliveredError) as caught:
        await store.close()
    assert caught.value.unsent == {"c1": 1} or caught.value.unknown == {"c1": 1}
    assert store.closed
    await daemon.in_thread("start")
    assert (await kept(daemon)).turn_count == 0
