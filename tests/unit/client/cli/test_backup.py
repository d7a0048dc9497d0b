"""Export and import take a bounded number of calls at a time, however many there are."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from callstate_client import MemoryStore, SessionState, Turn
from callstate_client.cli.backup import bring as bringing
from callstate_client.cli.backup.bring import Outcome, bring
from callstate_client.cli.backup.lines import Entry, parse
from callstate_client.cli.commands import export, import_calls
from callstate_client.cli.output import Output
from callstate_client.errors import InternalError, SessionNotFoundError
from callstate_client.store import Record

CALLS = 500


class Counting:
    """A store that counts what is asked of it at the same time."""

    def __init__(self) -> None:
        self.listed = self.loaded = self.open = self.most = 0

    async def info(self) -> dict[str, Any]:
        return {"host_id": "h1"}

    async def sessions(self, **_filters: Any) -> AsyncIterator[Record]:
        for number in range(CALLS):
            self.listed += 1
            assert self.listed - self.loaded <= export.AT_ONCE + 1
            yield Record(SessionState(f"call-{number}"))

    async def get(self, session_id: str) -> Record:
        self.open += 1
        self.most = max(self.most, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        self.loaded += 1
        if session_id == "call-7":
            raise SessionNotFoundError("it was deleted meanwhile")
        return Record(SessionState(session_id))


def arguments(**given: Any) -> argparse.Namespace:
    none = dict.fromkeys(("status", "state", "provider", "owner", "call_id", "ended_since"))
    return argparse.Namespace(**none | {"labels": [], "scope": "all", "replace": False} | given)


async def test_an_export_of_any_size_loads_few_calls_at_a_time(tmp_path: Path) -> None:
    store, path = Counting(), tmp_path / "calls"
    assert await export._export(store, arguments(output=path), Output(as_json=True)) == 0  # type: ignore[arg-type]
    lines = path.read_bytes().splitlines()
    assert len(lines) == CALLS + 1
    assert json.loads(lines[-1])["sessions"] == CALLS - 1
    assert store.most == export.AT_ONCE


async def test_an_export_into_a_pipe_leaves_the_pipe_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(path.read_bytes)  # begun before the export, which waits for it
        done = await export._export(Counting(), arguments(output=path), Output(as_json=True))  # type: ignore[arg-type]
    assert done == 0
    assert len(reading.result().splitlines()) == CALLS + 1
    assert path.is_fifo()
    assert [*tmp_path.iterdir()] == [path]


async def test_an_import_of_any_size_reads_few_lines_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, most, running, begun, done = tmp_path / "calls", 0, 0, 0, 0
    path.write_text("".join(json.dumps({"session": {"id": f"call-{n}"}}) + "\n" for n in range(CALLS)))

    async def slowly(_store: object, entry: Entry, *, replace: bool) -> Outcome:
        nonlocal most, running, begun, done
        begun, running = begun + 1, running + 1
        most = max(most, running)
        await asyncio.sleep(0)
        running, done = running - 1, done + 1
        assert begun - done < import_calls.AT_ONCE
        return Outcome.IMPORTED

    monkeypatch.setattr(import_calls, "bring", slowly)
    status = await import_calls._import(None, arguments(file=path), Output(as_json=True))  # type: ignore[arg-type]
    assert (status, done, most) == (0, CALLS, import_calls.AT_ONCE)
    assert json.loads(capfd.readouterr().out)["imported"] == CALLS


async def test_of_a_call_that_is_refused_halfway_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bringing, "SAVE_BYTES", 1000)
    state = SessionState("large", status="active")
    state.history.extend(Turn("user", "x" * 400) for _ in range(5))
    async with MemoryStore() as store:

        async def refuse(*_args: object, **_named: object) -> int:
            raise InternalError("no more turns")

        monkeypatch.setattr(store, "add_turn", refuse)
        with pytest.raises(InternalError):
            await bring(store, Entry(state), replace=False)
        with pytest.raises(SessionNotFoundError):
            await store.get("large")


@pytest.mark.parametrize(
    "members",
    [
        {"session": {"id": "c1"}, "a_later_versions": {"member": 1}},
        {"session": {"id": "c1", "unknown": [1, {"a": None}]}, "labels": {"app": "x"}, "ended_detail": None},
    ],
)
def test_members_of_a_later_version_are_no_fault(members: dict[str, Any]) -> None:
    entry = parse(json.dumps(members).encode())
    assert isinstance(entry, Entry)
    assert entry.state.id == "c1"


def test_a_long_line_is_read_whole(tmp_path: Path) -> None:
    line = json.dumps({"session": {"id": "c1", "history": [{"role": "user", "content": "x" * 3_000_000}]}})
    entry = parse(io.BytesIO(line.encode()).readline(import_calls.LINE_BYTES))
    assert isinstance(entry, Entry)
    assert len(entry.state.history[0].content) == 3_000_000
