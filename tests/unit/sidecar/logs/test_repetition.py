"""Repetition: the first lines of an event in a window are logged, and what is not logged is counted, all of it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callstate_sidecar.logs.event_log import LOGGER_NAME, EventLog
from callstate_sidecar.logs.repetition import WINDOW_S, Repetition
from callstate_sidecar.logs.setup import configure_logging, report_suppressed


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Leaves the root logger as it was."""
    root, ours = logging.getLogger(), logging.getLogger(LOGGER_NAME)
    before = root.handlers[:], ours.level
    yield
    root.handlers[:] = before[0]
    ours.setLevel(before[1])


class Time:
    """A clock that stands still."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


part = EventLog(f"{LOGGER_NAME}.part")


def lines_of(stream: io.StringIO) -> list[tuple[str, str]]:
    return [(entry["event"], entry["message"]) for entry in map(json.loads, stream.getvalue().splitlines())]


def test_the_first_lines_of_each_event_are_logged_and_the_rest_is_told_after_the_window() -> None:
    stream, time = io.StringIO(), Time()
    configure_logging("info", "json", 2, {}, stream, clock=time)
    for number in range(5):
        part.info("reaped", "reaped %d", number)
    part.error("refused", "refused")
    assert lines_of(stream) == [("reaped", "reaped 0"), ("reaped", "reaped 1"), ("refused", "refused")]
    report_suppressed()
    assert len(lines_of(stream)) == 3, "the window has not ended"
    time.now += WINDOW_S
    report_suppressed()
    report_suppressed()
    told = lines_of(stream)[3:]
    assert told == [("reaped", "reaped: 3 more lines like this were suppressed in 60 s")]
    assert json.loads(stream.getvalue().splitlines()[-1])["suppressed"] == 3


def test_the_next_line_after_a_window_follows_what_was_suppressed_in_it() -> None:
    stream, time = io.StringIO(), Time()
    configure_logging("info", "json", 1, {}, stream, clock=time)
    part.info("reaped", "a")
    part.info("reaped", "b")
    time.now += WINDOW_S
    part.info("reaped", "c")
    assert [text for _, text in lines_of(stream)] == [
        "a", "reaped: 1 more lines like this were suppressed in 60 s", "c",
    ]  # fmt: skip


def test_suppressed_lines_are_reported_at_the_end_and_at_a_reload() -> None:
    stream, time = io.StringIO(), Time()
    configure_logging("info", "text", 1, {}, stream, clock=time)
    for _ in range(3):
        part.error("refused", "refused")
    time.now += 5
    configure_logging("info", "json", 1, {}, io.StringIO())
    assert stream.getvalue().endswith(
        "ERROR   refused: 2 more lines like this were suppressed in 5 s event=refused\n"
    )


def test_a_limit_of_zero_is_none() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", 0, {}, stream, clock=Time())
    for _ in range(1000):
        part.info("reaped", "x")
    assert len(lines_of(stream)) == 1000


def test_libraries_do_not_suppress_each_others_lines() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", 1, {}, stream, clock=Time())
    for _ in range(2):
        logging.getLogger("asyncio").error("a")
        logging.getLogger("redis").error("b")
    assert lines_of(stream) == [("library", "a"), ("library", "b")]


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 2 * WINDOW_S, allow_nan=False)), max_size=60),
)
def test_every_line_is_logged_or_counted_and_the_first_of_each_window_is_logged(
    burst: int, steps: list[tuple[str, float]]
) -> None:
    repetition, now = Repetition(burst), 0.0
    logged = counted = 0
    seen: set[str] = set()
    for event, pause_s in steps:
        now += pause_s
        counted += sum(each.lines for each in repetition.ended(now))
        admitted = repetition.admits(event, logging.INFO, now)
        assert admitted or event in seen
        seen.add(event)
        logged += admitted
    counted += sum(each.lines for each in repetition.rest(now))
    assert logged + counted == len(steps)
    assert [*repetition.rest(now)] == []
