"""What held up the loop is counted by name, and logged if it is very long."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress

import pytest

from callstate_sidecar import long_turns
from callstate_sidecar.long_turns import (
    COLLECTING,
    CPU_READ_EVERY_S,
    MAX_NAMES,
    NOTICED_S,
    OTHERS,
    GcPauses,
    LongTurns,
    watching,
)
from support.core import Core, FakeClient


class Clock:
    """A clock that work moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(long_turns, "monotonic", clock)
    return clock


def counted(turns: LongTurns) -> dict[str, tuple[float, float]]:
    return {name: (each["count"], each["longest_ms"]) for name, each in turns.to_dict().items()}


async def test_each_step_of_a_task_is_measured_by_itself(clock: Clock) -> None:
    turns = LongTurns()

    async def work() -> str:
        for took_s in (NOTICED_S, 0.003, 0.005):
            clock.now += took_s
            await asyncio.sleep(0)
        clock.now += 0.004
        return "done"

    with watching(turns, GcPauses(turns)):
        assert await asyncio.create_task(work(), name="callstated-Sweep") == "done"
        await asyncio.create_task(work())
    assert counted(turns) == {"Sweep": (3, 5.0), work.__qualname__: (3, 5.0)}


async def test_a_task_that_is_cancelled_or_fails_does_so_as_ever(clock: Clock) -> None:
    turns = LongTurns()
    left = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            clock.now += 0.01
            left.append("cleaned up")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("as ever")

    with watching(turns, GcPauses(turns)):
        task = asyncio.create_task(work(), name="callstated-Waiting")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ValueError, match="as ever"):
            await asyncio.create_task(fail())
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
    assert left == ["cleaned up"]
    assert counted(turns) == {"Waiting": (1, 10.0)}
    assert asyncio.get_running_loop().get_task_factory() is None


async def test_a_long_garbage_collection_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    times = itertools.count(step=1.0)
    monkeypatch.setattr(long_turns, "monotonic", lambda: next(times))
    turns = LongTurns()
    pauses = GcPauses(turns)
    with watching(turns, pauses):
        gc.collect()
    assert pauses.to_dict() == {"count": 1, "total_ms": 1000.0, "longest_ms": 1000.0}
    assert sum(pauses.pauses.counts) == 1
    assert turns.to_dict()[COLLECTING]["count"] >= 1
    assert not [each for each in gc.callbacks if getattr(each, "__module__", "") == long_turns.__name__]


def test_only_what_is_longer_than_the_limit_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        LongTurns().add("session.save", 3600.0, 1.0)
        turns = LongTurns(log_ms=50)
        turns.add("session.save", 0.04, 0.04)
        turns.add("session.load", 0.06, 0.01)
    assert [record.message for record in caplog.records] == [
        "session.load held up the event loop for 60 ms, of which 10 ms of CPU time"
    ]


async def test_work_that_only_waits_for_a_processor_has_little_cpu_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = Clock()
    monkeypatch.setattr(long_turns, "thread_time", cpu)
    turns = LongTurns()

    async def work() -> None:
        for busy_s, waited_s in ((0.004, 0.0), (0.003, 0.02), (0.0, CPU_READ_EVERY_S / 2)):
            clock.now += busy_s + waited_s
            cpu.now += busy_s
            await asyncio.sleep(0)

    with watching(turns, GcPauses(turns)):
        await asyncio.create_task(work(), name="callstated-Sweep")
    assert turns.to_dict() == {"Sweep": {"count": 2, "longest_ms": 23.0, "cpu_ms": 4.0}}


def test_the_longest_are_named_first() -> None:
    turns = LongTurns()
    for name, took_s in (("a", 0.003), ("b", 0.009), ("a", 0.0061), ("c", 0.004)):
        turns.note(name, took_s)
    assert list(counted(turns).items()) == [("b", (1, 9.0)), ("a", (2, 6.1)), ("c", (1, 4.0))]


def test_names_are_bounded() -> None:
    turns = LongTurns()
    for number in range(10 * MAX_NAMES):
        turns.note(f"task-{number}", 0.01)
    assert len(turns.to_dict()) == MAX_NAMES + 1
    assert counted(turns)[OTHERS] == (9 * MAX_NAMES, 10.0)


def test_a_collection_at_any_depth_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deeply nested line is decoded by calls of its own, and may cause a collection at any of them."""
    pauses = GcPauses(LongTurns())
    failed: list[sys.UnraisableHookArgs] = []

    def deeper(levels: int) -> None:
        if levels:
            deeper(levels - 1)
        else:
            gc.collect(0)

    monkeypatch.setattr(sys, "unraisablehook", failed.append)
    gc.callbacks.append(pauses)
    try:
        for levels in range(sys.getrecursionlimit()):
            with suppress(RecursionError):
                deeper(levels)
    finally:
        gc.callbacks.remove(pauses)
    assert pauses.to_dict()["count"] > 0
    reached = {frame.name for each in failed for frame in traceback.extract_tb(each.exc_traceback)}
    assert "__call__" not in reached, "where not even that call is possible, Python says so"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each reading of the clock by connections and commits is 3 ms after the one before."""
    times = itertools.count(step=0.003)
    for module in ("connection", "group_commit"):
        monkeypatch.setattr(f"callstate_sidecar.serving.{module}.monotonic", lambda: next(times))
    return


@pytest.mark.usefixtures("slow")
async def test_requests_and_commits_are_counted() -> None:
    core = Core()
    client = FakeClient(core)
    ids = client.send(("session.save", {"session": {"id": "a"}}))
    while not client.answered(ids):
        await asyncio.sleep(0)
    found = core.metrics.to_dict()["long_turns"]
    assert {"session.save", "group commit"} <= found.keys()
