"""What a session takes of memory, and of a start: in proportion to its JSON, so that any machine can judge.

`make bench` measures daemons: their resident memory, and the time to the first reply. That takes minutes and varies
with the machine. Here allocations are counted, and a replay's CPU time is compared with that of `json.loads` for
the same documents. Measured when the limits were set: 1.43, 1.37 and 1.2.
"""

from __future__ import annotations

import gc
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any

import msgspec
import pytest
from bench.documents import document, history
from bench.starting import JournalBuilder

from callstate_client.engine.engine import Engine
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.replay import replay
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.config.schema import LimitsConfig, ReaperConfig
from callstate_sidecar.journal import Journal
from callstate_sidecar.journal.format import DATA_START
from callstate_sidecar.journal.layout import logs
from support.clock import ManualClock
from support.core import Core

SESSIONS = 300
TURNS = 20

LIVE_BYTES = 1.8
RESTORED_BYTES = 1.75
"""Bytes allocated for each byte of JSON."""

REPLAY_TIME = 2.0
"""CPU time of a replay over that of `json.loads`."""


@pytest.fixture
def allocated() -> Iterator[Callable[[], int]]:
    """Bytes that Python has allocated since the test began and not freed."""

    def now() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        yield now
    finally:
        tracemalloc.stop()


def json_of(sessions: list[Session]) -> list[bytes]:
    return [bytes(session.doc.for_store()[0]) for session in sessions]


async def fill(core: Core, numbers: range) -> None:
    """Save sessions and have them written; what the test's store keeps of them is dropped."""
    for number in numbers:
        state = msgspec.Raw(document(f"s{number}", TURNS, history(TURNS)))
        await core.call("session.save", session=state)
    await core.writer.write_round()
    core.memory.rows.clear()
    core.memory.batches.clear()
    core.logged.clear()


async def test_live_sessions_take_little_more_than_their_json(allocated: Callable[[], int]) -> None:
    core = Core()
    await fill(core, range(SESSIONS))  # what is there once, and caches that fill up
    before = allocated()
    await fill(core, range(SESSIONS, 2 * SESSIONS))
    grown = allocated() - before
    sessions = [core.table.sessions[f"s{number}"] for number in range(SESSIONS, 2 * SESSIONS)]
    ratio = grown / sum(map(len, json_of(sessions)))
    assert 1.0 < ratio < LIVE_BYTES


def restored(directory: Path) -> Any:
    """What a daemon has once it has replayed this journal."""
    table = SessionTable()
    journal = Journal(directory, checkpoint_min_bytes=1 << 30)
    assert journal.replay(partial(replay, table)) >= SESSIONS
    journal.close()
    engine = Engine(LimitsConfig(), ReaperConfig(), ManualClock(), "stream-1", table)
    engine.restore(lambda *_: None)
    return engine


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    directory = tmp_path / "journal"
    JournalBuilder(directory, saves=True).create(SESSIONS)
    [empty] = logs(directory).values()
    os.truncate(empty, DATA_START)  # a start looks through its 16 MiB of zeros, however few sessions there are
    return directory


def test_restored_sessions_take_little_more_than_their_json(journal: Path, allocated: Callable[[], int]) -> None:
    restored(journal)
    before = allocated()
    engine = restored(journal)
    ratio = (allocated() - before) / sum(map(len, json_of([*engine.table.sessions.values()])))
    assert 1.0 < ratio < RESTORED_BYTES


def test_a_start_takes_not_much_longer_than_parsing_the_json(journal: Path) -> None:
    documents = json_of([*restored(journal).table.sessions.values()])
    ratios: list[float] = []
    for _ in range(9):
        began = thread_time()
        for each in documents:
            json.loads(each)
        parsed = thread_time()
        restored(journal)
        ratios.append((thread_time() - parsed) / (parsed - began))
    assert median(ratios) < REPLAY_TIME
