"""The form of a log line, for people, for machines and where systemd's journal reads stderr."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callstate_sidecar.logs.event_log import LOGGER_NAME, EventLog
from callstate_sidecar.logs.setup import configure_logging

Set = Callable[..., io.StringIO]


@pytest.fixture
def configured() -> Iterator[Set]:
    """Configures logging as asked and returns where the lines go; leaves the root logger as it was."""
    root, ours = logging.getLogger(), logging.getLogger(LOGGER_NAME)
    before = root.handlers[:], ours.level

    def configure(level: str = "info", style: str = "text") -> io.StringIO:
        stream = io.StringIO()
        configure_logging(level, style, 0, {}, stream)
        return stream

    yield configure
    root.handlers[:] = before[0]
    ours.setLevel(before[1])


part = EventLog(f"{LOGGER_NAME}.part")


def failing() -> None:
    try:
        raise ValueError("no good")
    except ValueError:
        part.exception("failed", "it failed")


def test_a_line_of_text_has_time_level_message_and_event(configured: Set) -> None:
    stream = configured()
    part.warning("flushed", "flushed %d", 3, session_id="call-1")
    time, level, rest = stream.getvalue().split(maxsplit=2)
    assert len(time) == len("12:00:00.123")
    assert level == "WARNING"
    assert rest == "flushed 3 event=flushed\n"


def test_text_from_outside_can_not_forge_a_line(configured: Set) -> None:
    stream = configured()
    part.info("bad_id", "bad id %s", "x\n12:00:00.000 ERROR   forged\x1b[31m")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_a_traceback_follows_its_line(configured: Set) -> None:
    stream = configured()
    failing()
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("it failed event=failed")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: no good"


def test_a_line_of_json_is_one_object(configured: Set) -> None:
    stream = configured(style="json")
    part.warning("flushed", "flushed %d", 3, session_id="call-1", level="mine", path=Path("/x"))
    failing()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "warning", "event": "flushed", "logger": f"{LOGGER_NAME}.part", "message": "flushed 3",
        "session_id": "call-1", "path": "/x",
    }  # fmt: skip
    assert second["level"] == "error"
    assert second["exception"].endswith("ValueError: no good")


def test_the_level_holds_for_our_own_lines_and_libraries_only_warn(configured: Set) -> None:
    stream = configured(level="debug")
    part.debug("own", "ours")
    logging.getLogger("asyncio").info("theirs")
    logging.getLogger("asyncio").error("theirs, worse")
    assert [line.split(maxsplit=2)[2] for line in stream.getvalue().splitlines()] == [
        "ours event=own", "theirs, worse event=library",
    ]  # fmt: skip


def test_configuring_again_replaces_what_was_set(configured: Set) -> None:
    first = configured(level="debug")
    second = configured(level="error", style="json")
    part.warning("one", "quiet")
    part.error("two", "loud")
    assert first.getvalue() == ""
    assert [json.loads(line)["message"] for line in second.getvalue().splitlines()] == ["loud"]


def test_for_the_journal_each_line_has_its_priority_and_no_time(configured: Set, tmp_path: Path) -> None:
    configured()
    path = tmp_path / "journal"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        configure_logging("debug", "text", 0, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, stream)
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.CRITICAL):
            part.at(level, "any", "x")
        failing()
    lines = path.read_text().splitlines()
    assert lines[:4] == ["<7>x event=any", "<6>x event=any", "<4>x event=any", "<2>x event=any"]
    assert lines[4:6] == ["<3>it failed event=failed", "<3>Traceback (most recent call last):"]
    assert all(line.startswith("<3>") for line in lines[4:])


def test_a_journal_that_is_another_file_gets_no_priorities(configured: Set, tmp_path: Path) -> None:
    configured()
    path = tmp_path / "not-the-journal"
    with path.open("w") as stream:
        configure_logging("info", "text", 0, {"JOURNAL_STREAM": "1:2"}, stream)
        part.info("any", "x")
    assert path.read_text().endswith("INFO    x event=any\n")
