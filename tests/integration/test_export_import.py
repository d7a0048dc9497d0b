"""`callstate export` and `callstate import`: between running daemons, under load, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from callstate_client import SessionState, Turn, connect
from callstate_client.api import CallStore
from callstate_client.cli import main
from support.daemon import Daemon

T = TypeVar("T")

Run = Callable[..., tuple[int, str, str]]

SAID_AT = datetime(2026, 5, 1, 12, 0, 0, 123456, UTC)


def using(daemon: Daemon, work: Callable[[CallStore], Awaitable[T]], *, register: bool = False) -> T:
    """What `work` gives for a store connected to the daemon."""

    async def run() -> T:
        async with connect(daemon.socket, register=register) as store:
            return await work(store)

    return asyncio.run(run())


@pytest.fixture
def old() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def new() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; gives exit code, stdout, stderr."""

    def command(daemon: Daemon, *args: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["--socket", str(daemon.socket), *args])
        return status, *capfd.readouterr()

    return command


def call(session_id: str, **members: Any) -> SessionState:
    """A call with everything that a call can have."""
    state = SessionState(
        session_id, provider="twilio", from_="+442079460123", to="+15550100999", status="active",
        recovery_data={"step": "order", "items": [1, 2]}, **members,
    )  # fmt: skip
    state.history.append(Turn("user", "Grüße 🙂", SAID_AT, 900, extra={"asr": {"confidence": 0.93}}))
    state.history.append(Turn("agent", "Hello", SAID_AT, 1200))
    state.metrics.turn_count, state.metrics.interruption_count = 2, 1
    return state


def session_of(line: dict[str, Any]) -> dict[str, Any]:
    """The document, without the time that a daemon sets with every change."""
    return {name: value for name, value in line["session"].items() if name != "updated_at"}


def parsed(text: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]:
    """Header, calls by id, last line."""
    header, *calls, end = map(json.loads, text.splitlines())
    return header, {each["session"]["id"]: each for each in calls}, end


async def save_some(store: CallStore) -> None:
    """A held call, an orphan, one that was ended with a reason, and one that was just ended."""
    await store.save(call("held"), labels={"app": "sales"}, heartbeat_timeout_s=77, max_duration_s=86400)
    await store.save(call("orphan"))
    await store.release("orphan", (await store.get("orphan")).epoch)
    await store.save(call("failed"))
    await store.end("failed", "carrier_error", {"cause": 38})
    await store.save(call("done"))
    await store.end("done")


def test_everything_arrives_that_a_call_has(old: Daemon, new: Daemon, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "calls.ndjson"
    using(old, save_some, register=True)
    assert run(old, "export", "-o", str(path)) == (0, "", "callstate: 4 calls exported\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert run(new, "import", str(path)) == (0, "4 imported\n", "")
    header, before, end = parsed(path.read_text())
    _, after, _ = parsed(run(new, "export")[1])
    assert (header["callstate_export"], end) == (1, {"callstate_export_end": 1, "sessions": 4})
    assert before.keys() == after.keys() == {"held", "orphan", "failed", "done"}
    for session_id, line in before.items():
        assert session_of(after[session_id]) == session_of(line)
        for name in (
            "labels",
            "ended_reason",
            "ended_detail",
            "heartbeat_timeout_s",
            "max_duration_s",
        ):
            assert after[session_id].get(name) == line.get(name), name
    assert after["failed"]["ended_detail"] == {"cause": 38}
    assert after["held"]["session"]["from"] == "+442079460123"  # in full, as nothing could be made of it otherwise
    assert "owner" in before["held"]
    assert not any("owner" in line for line in after.values())


def test_live_calls_arrive_as_orphans_for_any_worker(old: Daemon, new: Daemon, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "calls.ndjson"
    using(old, save_some, register=True)
    run(old, "export", "--output", str(path))
    run(new, "import", str(path))

    async def recovered(store: CallStore) -> list[str]:
        orphans = [record.state.id async for record in store.sessions(state="orphan")]
        found = []
        while (record := await store.claim_next()) is not None:
            found.append(record.state.id)
        assert sorted(orphans) == sorted(found)
        return sorted(found)

    assert using(new, recovered, register=True) == ["held", "orphan"]


def test_existing_calls_are_left_or_replaced_and_held_ones_never(
    old: Daemon, new: Daemon, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "calls.ndjson"
    using(old, save_some, register=True)
    run(old, "export", "-o", str(path))

    async def occupy(store: CallStore) -> None:
        await store.save(SessionState("held", provider="mine"))
        await store.save(SessionState("failed", provider="mine"))
        await store.end("failed")
        await store.save(SessionState("orphan", provider="mine"))
        await store.release("orphan", (await store.get("orphan")).epoch)

    async def work(store: CallStore) -> None:
        await occupy(store)
        first = await asyncio.to_thread(run, new, "import", str(path))
        assert first[:2] == (0, "1 imported\n3 left as they are: they exist\n")
        assert (await store.get("failed")).state.provider == "mine"
        again = await asyncio.to_thread(run, new, "import", "--replace", "--json", str(path))
        assert json.loads(again[1]) == {"imported": 0, "replaced": 3, "exists": 0, "held": 1, "failed": 0}
        assert (await store.get("held")).state.provider == "mine"
        record = await store.get("failed")
        assert (record.state.provider, record.ended_reason) == ("twilio", "carrier_error")

    using(new, work, register=True)


def test_a_call_larger_than_a_request_arrives_whole(old: Daemon, new: Daemon, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "calls.ndjson"

    async def fill(store: CallStore) -> None:
        await store.save(call("large"))
        for number in range(60):
            await store.add_turn("large", "user", f"{number} " + "ä" * 15_000, 10, at=SAID_AT, extra={"n": number})
        await store.end("large", "too_long")

    using(old, fill)
    run(old, "export", "-o", str(path))
    assert path.stat().st_size > 1 << 20
    assert run(new, "import", str(path)) == (0, "1 imported\n", "")
    before, after = parsed(path.read_text())[1]["large"], parsed(run(new, "export")[1])[1]["large"]
    assert session_of(after) == session_of(before)
    assert after["ended_reason"] == "too_long"


def test_an_export_under_load_has_each_call_as_it_was_at_one_moment(old: Daemon, new: Daemon, run: Run) -> None:
    """Turns are numbered, and counted in the recovery data by the same save: neither is ever ahead of the other."""

    async def work(store: CallStore) -> list[str]:
        async def grow(name: str) -> None:
            state = SessionState(name, status="active")
            while not done.is_set():
                state.history.append(Turn("user", str(len(state.history)), SAID_AT))
                state.recovery_data = {"turns": len(state.history)}
                await store.save(state)

        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(grow(f"call-{number}"))
            exported = [(await asyncio.to_thread(run, old, "export"))[1] for _ in range(5)]
            done.set()
        return exported

    exported = using(old, work)
    for text in exported:
        for line in parsed(text)[1].values():
            history = line["session"]["history"]
            assert [turn["content"] for turn in history] == [str(number) for number in range(len(history))]
            assert line["session"]["recovery_data"]["turns"] == line["turn_count"] == len(history)


def test_filters_select_what_is_exported(old: Daemon, run: Run) -> None:
    using(old, save_some, register=True)
    assert parsed(run(old, "export", "--status", "ended")[1])[1].keys() == {"failed", "done"}
    assert parsed(run(old, "export", "--label", "app=sales")[1])[1].keys() == {"held"}
    assert parsed(run(old, "export", "--state", "orphan", "--scope", "host")[1])[1].keys() == {"orphan"}


def test_calls_that_only_the_store_has_are_exported(old: Daemon, run: Run) -> None:
    async def work(store: CallStore) -> None:
        await save_some(store)
        await store.flush()

    using(old, work, register=True)
    old.terminate()
    old.args += ["--set", "reaper.retention_s=0"]
    with Daemon(*old.args, store=f"sqlite:{old.state_dir / 'callstate.db'}") as other:
        assert parsed(run(other, "export", "--scope", "host")[1])[1] == {}
        exported = parsed(run(other, "export")[1])[1]
    assert exported.keys() == {"held", "orphan", "failed", "done"}
    assert exported["failed"]["ended_detail"] == {"cause": 38}


@pytest.mark.parametrize("lost", ["last line", "a call"])
def test_an_export_that_is_not_complete_is_noticed(
    old: Daemon, new: Daemon, run: Run, tmp_path: Path, lost: str
) -> None:
    path = tmp_path / "calls.ndjson"
    using(old, save_some, register=True)
    lines = run(old, "export")[1].splitlines(keepends=True)
    del lines[-1 if lost == "last line" else 2]
    path.write_text("".join(lines))
    status, _, said = run(new, "import", str(path))
    assert (status, "the export is not complete" in said) == (1, True)


def test_refused_calls_are_named_and_the_others_arrive(old: Daemon, new: Daemon, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "calls.ndjson"
    good = json.dumps({"session": {"id": "good", "status": "active"}})
    wrong = json.dumps({"session": {"id": "a b", "status": "active"}})
    newer = json.dumps({"callstate_export": 2})
    path.write_text(f"{good}\n{wrong}\nnonsense\n{newer}\n\n[]\n")
    status, told, said = run(new, "import", str(path))
    assert (status, told) == (1, "1 imported\n4 failed\n")
    for number in (2, 3, 4, 6):
        assert f"callstate: line {number}: " in said
    assert "the export has format 2, and this callstate reads up to 1" in said


def test_a_file_is_replaced_only_by_a_complete_export(old: Daemon, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "calls.ndjson"
    path.write_text("the last one")
    old.terminate()
    assert run(old, "export", "-o", str(path))[0] == 3
    assert path.read_text() == "the last one"
    assert [*tmp_path.iterdir()] == [path]


def test_a_pipe_from_one_daemon_to_the_other(old: Daemon, new: Daemon) -> None:
    using(old, save_some, register=True)
    callstate = [sys.executable, "-m", "callstate_client.cli", "--socket"]
    with subprocess.Popen([*callstate, str(old.socket), "export"], stdout=subprocess.PIPE) as export:
        done = subprocess.run(
            [*callstate, str(new.socket), "import"],
            stdin=export.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "4 imported\n", "")
    assert export.returncode == 0


def test_a_journal_of_a_stopped_daemon_is_imported(old: Daemon, new: Daemon, run: Run, tmp_path: Path) -> None:
    using(old, save_some, register=True)
    old.kill()
    path = tmp_path / "calls.ndjson"
    command = [sys.executable, "-m", "callstate_sidecar", "journal", "export", str(old.state_dir), "-o", str(path)]
    subprocess.run(command, check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    exported = path.read_text("utf-8")
    assert run(new, "import", str(path)) == (0, "4 imported\n", "")
    before = {line["session"]["id"]: line for line in map(json.loads, exported.splitlines())}
    after = parsed(run(new, "export")[1])[1]
    for session_id, line in before.items():
        assert session_of(after[session_id]) == session_of(line)
    assert after["held"]["heartbeat_timeout_s"] == 77


@pytest.mark.parametrize("command", ["export", "import"])
def test_on_a_terminal_a_bar_shows_how_far_it_is_and_stdout_stays_clean(
    old: Daemon, run: Run, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "calls.ndjson"
    using(old, save_some, register=True)
    run(old, "export", "-o", str(path))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    words = ["export"] if command == "export" else ["import", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "callstate_client.cli", "--socket", str(old.socket), *words],
        stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm"}, check=False,
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while chunk := os.read(ours, 4096):
            drawn += chunk
    os.close(ours)
    assert done.returncode == 0
    assert command.encode() in drawn
    assert b"4 calls" in drawn
    assert b"\x1b" not in done.stdout
