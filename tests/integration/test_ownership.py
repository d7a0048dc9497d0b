"""Workers and a real daemon: who holds a call, who takes it over, and what a worker that hangs or dies leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from threading import Event

import pytest

from callstate_client import (
    CallHandle,
    ConflictError,
    ConnectionLostError,
    FencedError,
    InvalidParamsError,
    NoDaemonError,
    SessionEndedError,
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
        with pytest.raises(FencedError):  # as is the end of its block
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


async def test_a_killed_workers_call_is_recovered_by_a_watching_worker(daemon: Daemon) -> None:
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
        connect(daemon.socket, "slow", stall_timeout_s=1.0) as store,
        # longer than a pause of the machine that the reaper does not take into account
        store.hold(a_call("slow"), heartbeat_timeout_s=0.7),
    ):
        told_of = await told(watching, "suspect")
        hang = Event()
        hang.wait(0.75)  # the loop stands still for longer than a heartbeat timeout, and for less than a stall
        assert (await watching.stats())["suspects"] == 0
        hang.wait(2.2)  # and now for long enough to be suspected
        assert await told_of == "slow"


async def test_a_forked_child_holds_nothing_and_connects_again(daemon: Daemon) -> None:
    async with connect(daemon.socket, "parent") as store, store.hold(a_call("forked")) as call:
        draining = asyncio.create_task(store.wait_draining())
        await call.beat()
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
                    waiting = asyncio.create_task(store.wait_draining())
                    await store.ping()
                    assert not waiting.done()

                asyncio.new_event_loop().run_until_complete(child())
                status = 0
            finally:
                os._exit(status)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0
        assert call.lost is None
        await call.add_turn("user", "still here")
        draining.cancel()


# -- fencing ------------------------------------------------------------------------------------------------------


async def test_a_caller_that_is_not_a_worker_is_fenced_by_epoch(daemon: Daemon) -> None:
    async with connect(daemon.socket, register=False) as script, connect(daemon.socket, "w2") as worker:
        with pytest.raises(FencedError):
            async with script.hold(a_call("script")) as call:
                await call.add_turn("user", "hello")
                async with worker.hold("script") as taken:
                    with pytest.raises(FencedError):
                        await call.add_turn("user", "too late")
                    assert isinstance(call.lost, FencedError)
                    assert (taken.epoch, taken.lost) == (1, None)
                    await taken.add_turn("agent", "in time")
                    raise call.lost
        record = await worker.get("script")
        assert [turn.content for turn in record.state.history] == ["hello", "in time"]
        assert (record.owner, record.epoch) == (None, 1), "what its holder left is to be recovered"


async def test_an_id_that_was_used_before_is_held_in_the_epoch_it_has(daemon: Daemon) -> None:
    async with connect(daemon.socket, "w1") as one, connect(daemon.socket, "w2") as two:
        await one.save(a_call("again"))
        await two.claim("again", steal=True)
        await two.delete("again")
        async with one.hold(a_call("again")) as call:
            assert call.epoch == 1
            await call.add_turn("user", "hello")
        assert (await one.get("again")).ended_reason == "completed"


# -- beats --------------------------------------------------------------------------------------------------------


async def until_lost(call: CallHandle) -> None:
    while call.lost is None:  # the beats tell it in the loop, and nobody else does
        await asyncio.sleep(0.001)


async def test_beats_alone_tell_that_a_call_was_stolen(daemon: Daemon) -> None:
    async with connect(daemon.socket, "w1") as one, connect(daemon.socket, "w2") as two:
        with pytest.raises(FencedError):
            async with one.hold(a_call("stolen"), heartbeat_timeout_s=0.1) as call:
                await two.claim("stolen", steal=True)
                await until_lost(call)
                assert isinstance(call.lost, FencedError)
                assert (call.lost.owner, call.lost.epoch) == ("w2", 1)
        assert (await two.get("stolen")).state.status == Status.ACTIVE


async def test_beats_alone_tell_that_a_call_was_ended(daemon: Daemon) -> None:
    async with connect(daemon.socket, "w1") as one, connect(daemon.socket, register=False) as operator:
        async with one.hold(a_call("ended"), heartbeat_timeout_s=0.1) as call:
            await operator.end("ended", "operator")
            await until_lost(call)
            assert isinstance(call.lost, SessionEndedError)
            assert call.lost.reason == "operator"
        assert (await one.get("ended")).ended_reason == "operator"


async def test_manual_beats_are_left_to_the_worker(daemon: Daemon) -> None:
    async with connect(daemon.socket, "w1") as store:
        suspect, recovered = await told(store, "suspect"), await told(store, "recovered")
        async with store.hold(a_call("manual"), heartbeat_timeout_s=0.1, beat="manual") as call:
            assert await suspect == "manual"
            await call.beat()
            assert await recovered == "manual"


async def test_beats_go_on_when_the_daemon_was_away(daemon: Daemon) -> None:
    async with (
        connect(daemon.socket, "w1") as store,
        store.hold(a_call("kept"), heartbeat_timeout_s=1) as call,
    ):
        before = (await store.load("kept")).updated_at
        await daemon.in_thread("kill")
        await daemon.in_thread("start")
        while (await store.load("kept")).updated_at == before:
            await asyncio.sleep(0.01)  # beats of another process: there is no event
        assert call.lost is None


# -- who a worker is ----------------------------------------------------------------------------------------------

NAMESAKE = """
import asyncio, sys
from callstate_client import connect

async def main():
    async with connect(sys.argv[1], "w1"):
        print("here", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


async def a_namesake(daemon: Daemon) -> asyncio.subprocess.Process:
    """Another process that is known as w1."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NAMESAKE, str(daemon.socket), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"here\n"
    return process


async def test_an_id_that_another_process_has_is_refused_at_once_and_named(daemon: Daemon) -> None:
    namesake = await a_namesake(daemon)
    with pytest.raises(ConflictError, match="'w1'") as caught:
        await connect(daemon.socket, "w1", wait_s=3600)
    assert caught.value.owner == "w1"
    await namesake.communicate(b"")
    async with connect(daemon.socket, "w1"):  # it has exited: no reason to wait
        pass


async def test_an_id_taken_during_an_absence_is_regained_when_the_other_leaves(daemon: Daemon) -> None:
    async with connect(daemon.socket, "w1") as store:
        await daemon.in_thread("kill")
        while (reconnecting := store._connection._reconnecting) is None:
            await asyncio.sleep(0)
        reconnecting.cancel()  # who comes first has the id: let that be the other
        await daemon.in_thread("start")
        namesake = await a_namesake(daemon)
        store._connection.reconnect()
        with pytest.raises(NoDaemonError, match="'w1'"):
            await store.ping(timeout_s=0.3)
        pinging = asyncio.create_task(store.ping(timeout_s=20))
        await namesake.communicate(b"")
        await pinging


async def test_an_id_of_the_wrong_form_is_refused_at_once(daemon: Daemon) -> None:
    with pytest.raises(InvalidParamsError, match="worker id"):
        await connect(daemon.socket, "not an id", wait_s=3600)


async def test_a_process_forked_while_it_connects_leaves_no_connection_behind(daemon: Daemon) -> None:
    """The worker dies, its child goes on: it has left all the same, and its call is claimable at once."""
    async with connect(daemon.socket, "w2") as store:
        calls = store.recover(labels={"test": "forked"}, watch=True)
        first = asyncio.ensure_future(anext(calls))
        forking = WORKER.replace(
            'print("held", flush=True)',
            'connecting = asyncio.ensure_future(connect(sys.argv[1], "victim")._connect())\n'
            "            await asyncio.sleep(0)\n"
            "            while not connecting.done() and store.closed is False:\n"
            "                import os, signal\n"
            "                if not os.fork():\n"
            "                    print(os.getpid(), flush=True)\n"
            "                    sys.stdin.read()\n"
            "                    os._exit(0)\n"
            "                os.kill(os.getpid(), signal.SIGKILL)",
        )
        victim = await asyncio.create_subprocess_exec(
            sys.executable, "-c", forking, str(daemon.socket), "forked",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert victim.stdout is not None
        child = int(await victim.stdout.readline())
        async with await first as call:
            assert (call.id, call.epoch) == ("forked", 1)
        os.kill(child, 0)
        await victim.communicate(b"")  # the child reads to its end
        await calls.aclose()


async def test_a_hung_threads_call_is_recovered_by_another_threads_store(daemon: Daemon) -> None:
    hung, go_on, epochs = Event(), Event(), []

    async def hang() -> None:
        async with connect(daemon.socket, stall_timeout_s=0.1) as store:
            with pytest.raises(FencedError):
                async with store.hold(a_call("hung"), heartbeat_timeout_s=0.2) as call:
                    hung.set()
                    go_on.wait(30)
                    await call.add_turn("user", "late")
            epochs.append(call.epoch)

    async with connect(daemon.socket) as store:
        thread = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(hang())))
        async with aclosing(store.recover(watch=True)) as calls, await anext(calls) as call:
            assert hung.is_set()
            assert call.epoch == 1
            go_on.set()
            await thread
            await call.add_turn("agent", "I am here.")
        record = await store.get("hung")
        assert (epochs, [turn.content for turn in record.state.history]) == ([0], ["I am here."])
