"""A call whose worker is killed -9 while the agent speaks, and which another worker continues; no account needed.

Starts a daemon, two workers (worker.py) and one call (fake_twilio.py), each but the call a process of its own. The
exit status is 0 if the transcript is complete.

    python examples/twilio_worker/play.py
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from callstate_client.sync import Store, connect
from fake_twilio import FakeTwilio, scripted_caller

HERE = Path(__file__).parent

EXPECTED = [
    ("agent", "Good evening! For how many people?"),
    ("user", "two"),
    ("agent", "For which…"),
    ("user", "Friday"),
    ("agent", "At what time?"),
    ("agent", "Sorry, we were cut off. At what time?"),
    ("user", "eight o'clock"),
    ("agent", "In what name?"),
    ("user", "Miller"),
    ("agent", "A table for two, Friday at eight o'clock, for Miller. Goodbye!"),
]
"""The transcript; of a sentence with … the caller hears the beginning."""


class Worker:
    """One process of worker.py."""

    def __init__(self, socket: str, *options: str) -> None:
        command = [sys.executable, str(HERE / "worker.py"), "--socket", socket, "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603
        self.address = self._served()

    def _served(self) -> tuple[str, int]:
        """Wait until uvicorn logs where it serves."""
        assert self.process.stderr is not None  # noqa: S101 - it was started with a pipe
        log = ""
        for line in self.process.stderr:
            log += line
            if found := re.search(r"running on http://([\d.]+):(\d+)", line):
                return found[1], int(found[2])
        raise SystemExit(f"the worker did not start:\n{log}")

    def end(self, number: signal.Signals) -> str:
        """Send it a signal, and wait until it is gone; returns the rest of its log."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)[1]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGTERM)


class Caller:
    """Follows the script; when it has heard a cue for the first time, something happens to the worker."""

    def __init__(self, store: Store, worker: Worker, cue: str, number: signal.Signals) -> None:
        self._store = store
        self._worker = worker
        self._cue = cue
        self._signal = number
        self.log: str | None = None
        """The worker's, once it is gone."""

    def __call__(self, heard: str, paused: bool) -> str:
        if self.log is None and heard.endswith(self._cue):
            self._wait_acknowledged()
            self.log = self._worker.end(self._signal)
            print(f"{'worker':<7} A got {self._signal.name}", flush=True)
            return ""
        return scripted_caller(heard, paused)

    def _wait_acknowledged(self) -> None:
        """A turn is queued when the agent begins to say it; killed sooner, the worker would take it along."""
        while not any(
            self._cue in turn.content for id_ in self._store.list_active() for turn in self._store.load(id_).history
        ):
            time.sleep(0.01)


@contextmanager
def daemon() -> Iterator[str]:
    """A daemon of its own; gives its socket."""
    with tempfile.TemporaryDirectory(prefix="callstate-twilio-") as directory:
        socket = str(Path(directory) / "callstate.sock")
        command = [
            sys.executable,
            "-m",
            "callstate_sidecar",
            "--socket",
            socket,
            "--state-dir",
            f"{directory}/state",
        ]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CALLSTATE_")}
        with subprocess.Popen([*command, "--log-level", "warning"], env=environ) as process:  # noqa: S603
            yield socket
            process.terminate()


def matches(turn: tuple[str, str], expected: tuple[str, str]) -> bool:
    """Whether the turn is the one expected."""
    beginning, cut, _ = expected[1].partition("…")
    return turn[0] == expected[0] and (turn[1].startswith(beginning) if cut else turn[1] == beginning)


def main() -> int:
    """The whole act."""
    parser = argparse.ArgumentParser(description="a call that outlives its worker")
    parser.add_argument("--socket", help="of a daemon that runs; else one is started")
    parser.add_argument("--signal", default="SIGKILL", help="what worker A gets, SIGTERM for example")
    args = parser.parse_args()
    with ExitStack() as stack:
        socket = args.socket or stack.enter_context(daemon())
        store = stack.enter_context(connect(socket, wait_s=20))
        a, b = (stack.enter_context(Worker(socket, "--finish-s", "0")) for _ in "ab")
        caller = Caller(store, a, "At what time?", signal.Signals[args.signal])
        call = FakeTwilio([a.address, b.address], caller, lambda who, text: print(f"{who:<7} {text}", flush=True))
        call.call()
        record = store.get(call.call_sid)
        said = [(turn.role, turn.content) for turn in record.state.history]
        print(f"\n{call.streams} streams, the call ended as {record.ended_reason!r}; what callstate has of it:\n")
        for role, content in said:
            print(f"  {role:<6} {content}")
        complete = len(said) == len(EXPECTED) and all(map(matches, said, EXPECTED))
        return 0 if complete and record.ended_reason == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
