"""`callstate top` in a real terminal, with a real daemon."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("textual", reason="Textual is in the extra `cli`")
pytest.importorskip("pyte", reason="pyte is in the extra `dev`")

from callstate_client import SessionState, sync
from support.daemon import Daemon
from support.terminal import Terminal

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("setsid") is None, reason="no setsid of util-linux"),
]

ROOT = Path(__file__).parents[2]

COLOURS = re.compile(rb"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")


@pytest.fixture
def store(daemon: Daemon) -> Iterator[sync.SidecarStore]:
    """Two calls: one of twilio with two turns, one of sip."""
    with sync.connect(daemon.socket) as store:
        first = SessionState(
            "CA0123456789abcdef0123456789abcdef", provider="twilio", status="active", from_="+442079460123"
        )
        first.add_turn("user", "the first words")
        first.add_turn("agent", "the second words")
        store.save(first, labels={"app": "sales"})
        store.save(SessionState("other", provider="sip", status="on_hold"))
        yield store


def top(socket: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "callstate_client.cli",
        "--socket",
        str(socket),
        "top",
        "--interval",
        "0.1",
        *options,
    ]


def test_a_session_at_the_terminal(daemon: Daemon, store: sync.SidecarStore) -> None:
    with Terminal(top(daemon.socket)) as terminal:
        seen = terminal.until("2 calls: not ended")
        assert "CA0123456789abcdef0123456789abcdef  live" in terminal.until("other")
        assert "sqlite up" in seen
        terminal.until("? Help")
        terminal.press("\r")
        terminal.until("the second words")
        assert "***23" in terminal.text
        store.add_turn("CA0123456789abcdef0123456789abcdef", "user", "grown meanwhile")
        terminal.until("grown meanwhile")
        terminal.press("\x1b")
        terminal.until(lambda text: "grown meanwhile" not in text)
        terminal.press("/sip\r")
        terminal.until(lambda text: "1 of 2 calls" in text and "CA0123" not in text)
        terminal.press("e")
        terminal.until("End the call other?")
        terminal.press("y")
        terminal.until("0 of 1 calls")
        assert store.get("other").ended_reason == "operator"
        terminal.press("q")
        assert terminal.wait() == 0
        assert terminal.is_as_before
        assert terminal.output.rfind(b"\x1b[?1049l") > terminal.output.rfind(b"\x1b[?1049h") >= 0


def test_another_size(daemon: Daemon, store: sync.SidecarStore) -> None:
    with Terminal(top(daemon.socket)) as terminal:
        terminal.until("2 calls")
        assert "PROVIDER" not in terminal.text
        terminal.resize(140, 30)
        terminal.until(lambda text: "PROVIDER" in text and "***23" in text)
        terminal.resize(40, 12)
        terminal.until(lambda text: "PROVIDER" not in text and "STATE" in text)
        terminal.press("q")
        assert terminal.wait() == 0


def test_a_daemon_that_goes_and_comes_back(daemon: Daemon, store: sync.SidecarStore) -> None:
    with Terminal(top(daemon.socket), 120, 30) as terminal:
        terminal.until("2 calls")
        daemon.kill()
        terminal.until("no answer")
        daemon.start()
        terminal.until(lambda text: "no answer" not in text and "other" in text and "live*" in text)
        terminal.press("q")
        assert terminal.wait() == 0


def test_a_terminal_without_colours(daemon: Daemon, store: sync.SidecarStore) -> None:
    with Terminal(top(daemon.socket), environ={"NO_COLOR": "1"}) as terminal:
        terminal.until("2 calls")
        terminal.press("q")
        assert terminal.wait() == 0
        assert COLOURS.findall(terminal.output) == []
    with Terminal(top(daemon.socket)) as terminal:
        terminal.until("2 calls")
        terminal.press("\x03")  # Ctrl-C
        assert terminal.wait() == 0
        assert COLOURS.findall(terminal.output) != []


def test_a_signal_gives_the_terminal_back(daemon: Daemon, store: sync.SidecarStore) -> None:
    with Terminal(top(daemon.socket)) as terminal:
        terminal.until("2 calls")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM
        assert terminal.is_as_before
        assert b"\x1b[?1049l" in terminal.output


def test_without_a_daemon(short_dir: Path) -> None:
    with Terminal(top(short_dir / "none")) as terminal:
        assert terminal.wait() == 3
        assert "callstate: " in terminal.text
        assert b"\x1b[?1049h" not in terminal.output


def test_without_a_terminal(daemon: Daemon) -> None:
    done = subprocess.run(top(daemon.socket), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert "top needs a terminal" in done.stderr


def test_the_picture_is_made_by_its_script(tmp_path: Path) -> None:
    picture = tmp_path / "top.svg"
    argv = [sys.executable, str(ROOT / "scripts" / "top_picture.py"), "--seconds", "3", "--out", str(picture)]
    subprocess.run(argv, check=True, timeout=100)
    drawn = re.sub(r"<[^>]+>", " ", picture.read_text("utf-8")).replace("&#160;", " ")
    assert "callstated" in drawn
    assert "worker_exited" in drawn
    assert "held by" in drawn
    assert "http" not in picture.read_text("utf-8").replace("http://www.w3.org/2000/svg", "").replace(
        "https://www.textualize.io", ""
    )


def test_no_other_command_imports_textual(daemon: Daemon) -> None:
    code = "import sys; from callstate_client.cli import main; main(); sys.exit('textual' in sys.modules)"
    argv = [sys.executable, "-c", code, "--socket", str(daemon.socket), "ls"]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
