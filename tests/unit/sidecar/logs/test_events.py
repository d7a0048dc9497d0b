"""Every line of the daemon's log names its event, and every event is explained in docs/operations.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from callstate_sidecar.logs.event_log import LIBRARY, EventLog

ROOT = Path(__file__).parents[4]
SIDECAR = ROOT / "sidecar" / "callstate_sidecar"
LOGS = SIDECAR / "logs"
METHODS = {name for name in vars(EventLog) if not name.startswith("_")}
NAME = re.compile(r"[a-z]+(_[a-z]+)*")


class Call(NamedTuple):
    """A call that logs."""

    place: str
    event: object
    message: object
    level: str


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SIDECAR.rglob("*.py")):
        yield path, ast.parse(path.read_text("utf-8"))


def calls() -> Iterator[Call]:
    for path, tree in modules():
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=method), args=args):
                    first, second, *_ = [*args[method == "at" :], None, None]
                    yield Call(
                        f"{path.relative_to(ROOT)}:{node.lineno}",
                        first.value if isinstance(first, ast.Constant) else None,
                        second.value if isinstance(second, ast.Constant) else None,
                        method,
                    )


CALLS = [*calls()]


def test_the_calls_are_found() -> None:
    assert len(CALLS) > 50
    assert {call.level for call in CALLS} == METHODS


def test_nothing_is_logged_but_by_the_helper() -> None:
    """No module has a logger of the standard library, under whatever name."""
    loggers = {"getLogger", "Logger", "LoggerAdapter", "basicConfig", *dir(__import__("logging").Logger)}
    wrong = []
    for path, tree in modules():
        if path.is_relative_to(LOGS):
            continue
        for node in ast.walk(tree):
            match node:
                case ast.ImportFrom(module="logging"):
                    wrong.append(f"{path}:{node.lineno}")
                case ast.Attribute(value=ast.Name(id="logging"), attr=name) if name in loggers:
                    wrong.append(f"{path}:{node.lineno}")
                case ast.Assign(targets=[ast.Name(id="log")], value=value):
                    if ast.unparse(value) != "EventLog(__name__)":
                        wrong.append(f"{path}:{node.lineno}")
                case ast.Call(func=ast.Name(id="EventLog")) if path.parent != LOGS:
                    if "log = EventLog(__name__)" not in path.read_text("utf-8"):
                        wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


def test_every_call_names_an_event_and_says_it_in_words() -> None:
    wrong = [
        call for call in CALLS
        if not (isinstance(call.event, str) and NAME.fullmatch(call.event) and isinstance(call.message, str))
    ]  # fmt: skip
    assert wrong == []


def explained() -> set[tuple[str, str]]:
    """The events of the table, with their levels."""
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    section = text.partition("All events (")[2].partition("\n## ")[0]
    return {*re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \| ", section, re.MULTILINE)}


def test_every_event_is_explained() -> None:
    assert {event for event, _ in explained()} == {call.event for call in CALLS} | {LIBRARY}


def test_an_event_has_the_level_that_the_table_gives() -> None:
    levels = {"exception": "error", "at": "warning, error"}
    logged = {(call.event, levels.get(call.level, call.level)) for call in CALLS}
    assert explained() - {(LIBRARY, "warning and above")} == logged
