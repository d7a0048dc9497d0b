"""The code of the how-tos and the guide does what the text says: each page's blocks are executed, then used."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from callstate_client import (
    CallHandle,
    Clock,
    ConflictError,
    FencedError,
    MemoryStore,
    OverloadedError,
    Role,
    SessionState,
    ShuttingDownError,
    connect,
    tool_call,
)
from callstate_client.sync import HeldCall
from support.daemon import Daemon
from support.redis_server import RedisServer

DOCS = Path(__file__).parents[2] / "docs"
HOWTOS = sorted((DOCS / "howto").glob("*.md"))


def blocks(page: str, language: str = "python") -> list[str]:
    """A page's fenced blocks of a language."""
    text = (DOCS / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def names(page: str) -> dict[str, Any]:
    """What a page's code defines, block after block, as a reader would paste it."""
    defined: dict[str, Any] = {"__name__": __name__}
    for code in blocks(page):
        exec(compile(code, page, "exec"), defined)  # noqa: S102 - our own documents
    return defined


async def several(*values: Any) -> AsyncIterator[Any]:
    """These values, as a stream of media would give them."""
    for value in values:
        yield value


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore(worker_id="worker-1") as opened:
        yield opened


# -- hold a call ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def holding() -> dict[str, Any]:
    return names("howto/hold-a-call.md")


async def test_a_block_that_is_left_normally_ends_the_call(holding: dict[str, Any], store: MemoryStore) -> None:
    await holding["handle"](store, "c1", "+1555", "+1556", several(("A table.", 900), ("For two.", 700)))
    record = await store.get("c1")
    assert (record.ended_reason, record.turn_count, record.labels) == ("completed", 3, {"app": "booking"})
    assert record.state.metrics.user_speech_duration_ms == 1600


async def test_a_hangup_ends_the_call_and_a_bug_releases_it(holding: dict[str, Any], store: MemoryStore) -> None:
    async def broken(error: Exception) -> AsyncIterator[Any]:
        yield "Hello?", 500
        raise error

    hangup = holding["Hangup"]
    with pytest.raises(hangup):
        await holding["handle"](store, "c1", "", "", broken(hangup()))
    assert (await store.get("c1")).ended_reason == "hangup"
    with pytest.raises(ZeroDivisionError):
        await holding["handle"](store, "c2", "", "", broken(ZeroDivisionError()))
    record = await store.get("c2")
    assert (record.ended_reason, record.owner) == (None, None)


async def test_a_stream_that_reconnects_goes_on(holding: dict[str, Any], store: MemoryStore) -> None:
    call = await store.open_call(SessionState("c1", provider="twilio"))
    await call.add_turn("user", "A table.")
    with pytest.raises(ConflictError) as refused:
        await holding["media_stream"](store.worker("worker-2"), "c1")
    assert refused.value.owner == "worker-1"
    store.kill_worker()
    second = store.worker("worker-2")
    await holding["media_stream"](second, "c1")
    assert [turn.content for turn in (await second.get("c1")).state.history] == [
        "A table.",
        "Where were we? You said: A table.",
    ]
    await holding["media_stream"](second, "c2")
    assert (await second.get("c2")).turn_count == 1


async def test_an_awaited_turn_is_kept(holding: dict[str, Any], store: MemoryStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        await holding["book"](call, 12)
        assert (await store.get("c1")).state.recovery_data == {"table": 12}
        with pytest.raises(OverloadedError):
            for _ in range(1001):
                call.add_turn("user", "…")


async def test_a_turn_is_amended_to_what_was_heard(holding: dict[str, Any], store: MemoryStore) -> None:
    async def play(text: str) -> tuple[str, int]:
        call.add_turn("user", "Wait!")
        return text[:5], 300

    async with store.hold(SessionState("c1")) as call:
        await holding["speak"](call, "Hello, how can I help?", play)
    state = (await store.get("c1")).state
    assert [(turn.content, turn.extra) for turn in state.history] == [
        ("Hello", {"interrupted": True}),
        ("Wait!", {}),
    ]
    assert state.metrics.interruption_count == 1


async def test_a_block_is_cancelled_when_its_call_is_gone(holding: dict[str, Any], store: MemoryStore) -> None:
    talking = asyncio.Event()

    async def talk(call: CallHandle) -> None:
        talking.set()
        await asyncio.Event().wait()

    for session_id, said in (("c1", "worker-2 has the call"), ("c2", "ended: operator")):
        await store.save(SessionState(session_id))
        talking.clear()
        task = asyncio.create_task(holding["until_over"](store, session_id, talk))
        await talking.wait()
        if session_id == "c1":
            await store.worker("worker-2").claim(session_id, steal=True)
        else:
            await store.worker().end(session_id, "operator")
        assert await task == said


async def test_a_watchdog_and_heartbeats_by_hand(holding: dict[str, Any], store: MemoryStore) -> None:
    for session_id, name in (("c1", "watched"), ("c2", "by_hand")):
        await store.save(SessionState(session_id))
        await holding[name](store, session_id, several("a", "b"))
        record = await store.get(session_id)
        assert (record.turn_count, record.ended_reason) == (2, "completed")


async def test_callbacks_end_or_release_the_call(holding: dict[str, Any], store: MemoryStore) -> None:
    for session_id, error, reason in (
        ("c1", None, "completed"),
        ("c2", holding["Hangup"](), "hangup"),
        ("c3", KeyError(), None),
    ):
        bot = holding["Bot"](store)
        await bot.on_start(session_id)
        await bot.on_text("Hello?")
        await bot.on_stop(error)
        assert (await store.get(session_id)).ended_reason == reason


# -- crash and recover ----------------------------------------------------------------------------------------


@pytest.fixture
def recovering() -> dict[str, Any]:
    """With a caller who says one thing and hangs up, and an agent who has one answer."""

    async def answer(state: SessionState) -> str:
        return f"{len(state.history)} turns so far."

    return names("howto/crash-and-recover.md") | {"answer": answer}


def heard(defined: dict[str, Any], *texts: str) -> dict[str, Any]:
    """Let the page's functions hear this."""
    defined["talk"].__globals__.update(listen=lambda _: several(*texts), answer=defined["answer"])
    return defined


async def test_the_next_worker_continues_where_the_last_one_was(
    recovering: dict[str, Any], store: MemoryStore
) -> None:
    call = await store.open_call(SessionState("c1"))
    await heard(recovering, "For two.")["talk"](call)
    await call.add_turn("agent", "Which day?")
    store.kill_worker()
    second = store.worker("worker-2")
    taken = asyncio.Event()

    async def take_calls(_: MemoryStore) -> None:
        taken.set()

    heard(recovering, "Tomorrow.")
    async with second.events("ended") as events:
        serving = asyncio.create_task(recovering["serve"](second, take_calls))
        await taken.wait()
        await anext(events)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    record = await second.get("c1")
    assert [turn.content for turn in record.state.history] == [
        "For how many people?",
        "For two.",
        "2 turns so far.",
        "Which day?",
        "Tomorrow.",
        "5 turns so far.",
    ]
    assert record.state.recovery_data == {"step": "people", "people": 0}


async def test_a_tool_that_was_running_is_answered(recovering: dict[str, Any], store: MemoryStore) -> None:
    async def look_up(name: str) -> str:
        return f"{name}: done"

    state = SessionState("c1", recovery_data={"step": "people", "people": 2})
    async with store.hold(state) as call:
        call.add_turn(Role.AGENT, "One moment.", extra={"tool_calls": [tool_call("t1", "book_table")]})
        await heard(recovering, "Thanks.")["resume"](call, look_up)
    history = (await store.get("c1")).state.history
    assert [(turn.role, turn.content) for turn in history[1:]] == [
        ("tool", "book_table: done"),
        ("user", "Thanks."),
        ("agent", "3 turns so far."),
    ]


# -- deploy ---------------------------------------------------------------------------------------------------


async def test_a_worker_leaves_and_hands_over(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deploying = names("howto/deploy.md")
    deploying["connect"] = lambda: store
    listening = asyncio.Event()

    class Server:
        async def stop(self) -> None:
            with pytest.raises(ShuttingDownError):
                await store.open_call(SessionState("c2"))
            await call.close()

    async def listen(opened: MemoryStore) -> Server:
        listening.set()
        return Server()

    call = await store.open_call(SessionState("c1"))
    main = asyncio.create_task(deploying["main"](listen))
    await listening.wait()
    os.kill(os.getpid(), 15)
    await main
    assert capsys.readouterr().out in (
        "1 calls finished, 0 were handed over\n",
        "0 calls finished, 0 were handed over\n",  # the call was over before the wait began
    )


async def test_readiness_follows_the_drain(store: MemoryStore) -> None:
    said: list[bool] = []

    async def set_ready(ready: bool) -> None:
        said.append(ready)

    watching = asyncio.create_task(names("howto/deploy.md")["readiness"](store, set_ready))
    await store.worker().drain()
    await watching
    assert said == [False]


# -- test with MemoryStore ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in names("howto/test.md") if name.startswith("test_")])
async def test_the_tests_that_are_shown_pass(name: str) -> None:
    await names("howto/test.md")[name]()


# -- Flask, threads and scripts -------------------------------------------------------------------------------


@pytest.mark.system
def test_the_blocking_front(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Daemon() as daemon:
        monkeypatch.setenv("CALLSTATE_SOCKET", str(daemon.socket))
        shown = names("howto/blocking.md")
        with shown["store"] as store:
            store.save(SessionState("c1", provider="sip", status="active"))
            web = shown["app"].test_client()

            def status(call_id: str, word: str) -> int:
                return web.post("/status", data={"CallSid": call_id, "CallStatus": word}).status_code

            assert status("c1", "on_hold") == 204
            assert store.load("c1").status == "on_hold"
            assert status("c1", "active") == 204
            shown["report"]()
            assert capsys.readouterr().out == "c1 sip 0 web-1\n"
            assert status("c1", "completed") == 204
            assert store.get("c1").ended_reason == "caller_hangup"
            assert status("missing", "active") == 404
            assert shown["handle"]("c2", ["Hello?", "Bye."]) is None
            assert (store.get("c2").turn_count, store.get("c2").ended_reason) == (2, "completed")
            store.save(SessionState("c3", status="active"))
            recovered: list[str] = []
            handler = signal.getsignal(signal.SIGTERM)

            def talk(call: HeldCall) -> None:
                recovered.append(call.id)
                signal.raise_signal(signal.SIGTERM)

            with contextlib.closing(shown["connect"](worker_id="web-2")) as dying:
                dying.save(SessionState("c4"))
            shown["serve"](talk)
            signal.signal(signal.SIGTERM, handler)
            assert recovered == ["c4"]
            store.flush(timeout_s=10)
        assert daemon.terminate() == 0
        shown["nightly"](daemon.state_dir / "callstate.db")
        assert capsys.readouterr().out == "1 calls are going on\n"


# -- several hosts --------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_all_calls_and_one_that_moves(redis_server: RedisServer) -> None:
    shown = names("howto/several-hosts.md")
    here, there = (
        Daemon("--set", f"host.id={host}", "--set", "store.prefix=howto:", store=redis_server.url) for host in "ab"
    )
    with contextlib.ExitStack() as stack:
        stack.callback(here.close, expect="now belongs to host b")  # it may learn that while the test runs
        here.start()
        stack.enter_context(there)
        async with connect(here.socket, "worker-1") as first, connect(there.socket, "worker-2") as second:
            call = await first.open_call(SessionState("c1"))
            await call.add_turn("user", "Hello?")
            await first.flush(timeout_s=10)
            assert await shown["everywhere"](second) == ["c1"]
            with pytest.raises(ConflictError) as refused:
                await shown["media_stream"](second, "c1")
            assert refused.value.owner == "worker-1"
            await call.release()
            await first.flush(timeout_s=10)
            assert await shown["media_stream"](second, "c1") == 1
            assert (await second.get("c1")).ended_reason == "completed"


# -- the guide ------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_getting_started_works_for_somebody_who_comes_from_the_readme() -> None:
    with Daemon() as daemon:
        for page in ("../README.md", "getting-started.md"):
            (code,) = blocks(page)
            (said,) = blocks(page, "text")
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False,
                env=os.environ | {"CALLSTATE_SOCKET": str(daemon.socket)},
            )  # fmt: skip
            assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


async def test_the_errors_after_which_to_try_again(store: MemoryStore) -> None:
    take = names("errors.md")["take"]
    assert await take(store, "c1") is None
    assert (await store.get("c1")).turn_count == 1
    await store.worker().drain()
    assert 0.5 <= await take(store, "c2") <= 1.5


# -- none is left out -----------------------------------------------------------------------------------------


def functions(page: str) -> Iterator[str]:
    """The functions and classes that a page's code defines."""
    for code in blocks(page):
        for node in ast.parse(code).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name


@pytest.mark.parametrize("page", [path.name for path in HOWTOS])
def test_all_that_a_page_shows_is_used_here(page: str) -> None:
    if page == "other-languages.md":  # whole files: tests/system/test_other_languages.py
        return
    source = inspect.getsource(sys.modules[__name__])
    shown = [name for name in functions(f"howto/{page}") if not name.startswith("test_")]
    called_by_the_page = {"Progress", "count_active", "greet", "status", "store"}
    assert [name for name in shown if f'"{name}"' not in source and name not in called_by_the_page] == []


def test_clocks_and_fencing_are_those_of_the_page() -> None:
    shown = names("howto/test.md")
    assert shown["Clock"] is Clock
    assert shown["FencedError"] is FencedError
