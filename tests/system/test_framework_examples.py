"""examples/pipecat_bot and examples/livekit_agent: killed in mid-call and run again, with the real frameworks."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from callstate_client import tool_call, tool_calls_of, unanswered_calls
from callstate_client.store import Record
from callstate_client.sync import Store, connect
from support.daemon import Daemon

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.system, pytest.mark.framework, pytest.mark.timeout(120)]


def example(name: str, package: str, program: str, result: str) -> object:
    missing = importlib.util.find_spec(package) is None
    reason = f"{package} is not installed: make test-adapters"
    return pytest.param(EXAMPLES / program, result, id=name, marks=pytest.mark.skipif(missing, reason=reason))


each_example = pytest.mark.parametrize(
    ("program", "result"),
    [
        example("pipecat", "pipecat", "pipecat_bot/bot.py", '{"table": 12}'),
        example("livekit", "livekit", "livekit_agent/agent.py", "table 12"),
    ],
)


@pytest.fixture
def store(daemon: Daemon) -> Iterator[Store]:
    with connect(daemon.socket) as connected:
        yield connected


def start(program: Path, daemon: Daemon, booking_s: float) -> subprocess.Popen[str]:
    options = ["--call", "c1", "--socket", str(daemon.socket), "--booking-s", str(booking_s)]
    return subprocess.Popen(
        [sys.executable, str(program), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def end_while_it_books(process: subprocess.Popen[str], store: Store, number: signal.Signals) -> str:
    """A signal while the function runs, and its call has been acknowledged; returns what the process said."""
    assert process.stdout is not None
    said = ""
    while "booking" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    deadline = time.monotonic() + 20
    while not unanswered_calls(store.load("c1").history):
        assert time.monotonic() < deadline
        time.sleep(0.01)  # it was queued before the function ran
    process.send_signal(number)
    return said + process.communicate(timeout=30)[0]


def conversation(record: Record) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in record.state.history]


@each_example
def test_the_next_one_goes_on_in_the_middle_of_a_function_call(
    daemon: Daemon, store: Store, program: Path, result: str
) -> None:
    first = start(program, daemon, booking_s=60)
    end_while_it_books(first, store, signal.SIGKILL)
    assert conversation(store.get("c1")) == [
        ("agent", "Good evening, how can I help you?"),
        ("user", "A table for two, please."),
        ("agent", ""),
    ]
    second = start(program, daemon, booking_s=0)
    said = second.communicate(timeout=60)[0]
    assert second.returncode == 0, said
    assert "with 3 turns" in said
    record = store.get("c1")
    assert conversation(record)[3:] == [
        ("agent", ""),
        ("tool", result),
        ("agent", "Sorry, we were cut off. You have table 12."),
        ("user", "Thank you, goodbye."),
        ("agent", "Goodbye!"),
    ]
    asked = [call for turn in record.state.history for call in tool_calls_of(turn)]
    assert asked == [tool_call(f"call_{number}", "book_table", '{"people": 2}') for number in (1, 2)]
    assert record.ended_reason == "completed"
    assert record.state.metrics.first_response_ms > 0


@each_example
def test_ctrl_c_releases_the_call(daemon: Daemon, store: Store, program: Path, result: str) -> None:
    booking_s = 10  # LiveKit waits for a tool that runs when its session is closed
    said = end_while_it_books(start(program, daemon, booking_s), store, signal.SIGINT)
    record = store.get("c1")
    assert record.state.is_active, said
    assert record.owner is None
