"""examples/twilio_worker: calls over real WebSockets, and what is left of them when their worker is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callstate_client import SessionNotFoundError, Turn
from callstate_client.store import Record
from callstate_client.sync import Store, connect
from support.command_line import wait_until
from support.daemon import Daemon

EXAMPLE = Path(__file__).parents[2] / "examples" / "twilio_worker"

for package in ("fastapi", "uvicorn", "websockets"):
    pytest.importorskip(package, reason=f"{package} is not installed: make .venv/.callstate-dev")

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture
def store(daemon: Daemon) -> Iterator[Store]:
    with connect(daemon.socket) as connected:
        yield connected


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of the example, which are not in a package."""
    monkeypatch.syspath_prepend(EXAMPLE)
    before = set(sys.modules)
    import fake_twilio
    import play

    yield SimpleNamespace(Worker=play.Worker, **vars(fake_twilio))
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(EXAMPLE)):
            del sys.modules[name]


def the_call(store: Store) -> Record:
    """The only one."""
    (record,) = store.sessions()
    return store.get(record.state.id)


def said(record: Record) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in record.state.history]


def test_the_next_sentence_comes_from_another_worker(daemon: Daemon, store: Store) -> None:
    command = [sys.executable, str(EXAMPLE / "play.py"), "--socket", str(daemon.socket)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 streams, the call ended as 'completed'" in done.stdout
    record = the_call(store)
    turns = list(record.state.history)
    assert [(turn.role, turn.content) for turn in turns if turn is not turns[2]] == [
        ("agent", "Good evening! For how many people?"),
        ("user", "two"),
        ("user", "Friday"),
        ("agent", "At what time?"),
        ("agent", "Sorry, we were cut off. At what time?"),
        ("user", "eight o'clock"),
        ("agent", "In what name?"),
        ("user", "Miller"),
        ("agent", "A table for two, Friday at eight o'clock, for Miller. Goodbye!"),
    ]
    check_interrupted(turns[2], "For which")
    assert record.state.metrics.turn_count == 10
    assert record.state.metrics.interruption_count == 1
    assert record.state.metrics.average_response_ms == 200  # of silence tell that the caller is done
    assert record.state.recovery_data == {
        "people": "two", "day": "Friday", "time": "eight o'clock", "name": "Miller",
    }  # fmt: skip
    assert (record.state.from_, record.state.to, record.state.call_id) == (
        "+15550100",
        "+15550199",
        record.state.id,
    )


def check_interrupted(turn: Turn, heard: str) -> None:
    """At least what the caller had heard when he spoke; a slow worker takes a little more for heard."""
    assert turn.content.startswith(heard)
    assert turn.extra["interrupted"] is True


def test_a_call_outlives_a_deploy_of_its_worker(short_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "play.py"), "--signal", "SIGTERM"],
        capture_output=True, text=True, timeout=100, check=False, env=os.environ | {"TMPDIR": str(short_dir)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(short_dir.iterdir()), "nothing is left behind"


def test_a_caller_who_hangs_up_ends_the_call(daemon: Daemon, store: Store, example: Any) -> None:
    def caller(heard: str, paused: bool) -> str:
        if heard.endswith("For which day?"):
            raise example.HangUp
        return "#2" if paused else ""

    with example.Worker(str(daemon.socket)) as worker:
        example.FakeTwilio([worker.address], caller, print).call()
        log = worker.end(signal.SIGTERM)
    record = the_call(store)
    assert said(record) == [
        ("agent", "Good evening! For how many people?"),
        ("user", "2"),
        ("agent", "For which day?"),
    ]
    assert record.ended_reason == "hung_up"
    assert "Traceback" not in log
    assert worker.process.returncode in (0, -signal.SIGTERM)


def test_a_caller_who_hangs_up_between_two_workers_ends_the_call(
    daemon: Daemon, store: Store, example: Any
) -> None:
    with example.Worker(str(daemon.socket)) as a, example.Worker(str(daemon.socket)) as b:

        def caller(heard: str, _: bool) -> str:
            if heard.endswith("people?"):
                a.end(signal.SIGKILL)
                wait_until(daemon, lambda stats: stats["suspects"] == 1)  # before that, b may not end it
                raise example.HangUp
            return ""

        example.FakeTwilio([a.address, b.address], caller, print).call()
        assert the_call(store).ended_reason == "hung_up"


def test_a_call_is_new_to_a_worker_that_died_before_it_held_it(daemon: Daemon, store: Store, example: Any) -> None:
    """Its stream ended before the call was known: the action URL opens another one, and does not hang up."""
    with example.Worker(str(daemon.socket)) as worker:
        call = example.FakeTwilio([worker.address], example.scripted_caller, print)
        with pytest.raises(SessionNotFoundError):
            store.get(call.call_sid)
        assert call._fetch("/voice/stream-ended", "in-progress").find("Connect/Stream") is not None
        call.call()
        assert call._fetch("/voice/stream-ended", "in-progress").find("Hangup") is not None
    assert the_call(store).ended_reason == "completed"
