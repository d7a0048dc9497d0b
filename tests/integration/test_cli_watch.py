"""`callstate ls` on a terminal of 80 columns, and `--watch` there, in a pipe and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from callstate_client import SessionState
from support.command_line import OnTerminal, Running, using, wait_until
from support.daemon import Daemon

TWILIO = "CA" + "0123456789abcdef" * 2
SEQUENCE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as daemon:
        using(daemon, lambda store: store.save(SessionState(TWILIO, provider="twilio", status="active")))
        yield daemon


def plain(seen: bytes) -> list[str]:
    """The lines that a terminal would show, without colours."""
    return SEQUENCE.sub(b"", seen).decode().replace("\r", "").splitlines()


def test_ids_of_34_characters_are_whole_at_80_columns(daemon: Daemon) -> None:
    with OnTerminal(daemon, "ls") as shown:
        head, line = plain(shown.rest())
    assert head.split()[:4] == ["ID", "STATUS", "STATE", "OWNER"]
    assert head.split()[-2:] == ["AGE", "SEEN"]
    assert "PROVIDER" not in head, "there is no room for it"
    assert line.split()[:2] == [TWILIO, "active"]
    assert max(len(head), len(line)) <= 80
    assert shown.process.wait() == 0


def test_on_a_terminal_events_redraw_it_and_ctrl_c_ends_it(daemon: Daemon) -> None:
    with OnTerminal(daemon, "ls --watch 60") as watching:
        watching.until(TWILIO.encode())
        wait_until(daemon, lambda stats: stats["subscribers"] == 1)
        using(daemon, lambda store: store.save(SessionState("another", status="on_hold")))
        seen = watching.until(b"another")
        assert b"\x1b[H" in seen, "drawn over what was there"
        using(daemon, lambda store: store.end(TWILIO))
        using(daemon, lambda store: store.delete("another"))
        watching.until(b"no live calls; --all lists the one that has ended")
        watching.ctrl_c()
        rest = watching.rest()
        assert watching.process.wait() == 0
    assert b"Traceback" not in watching.seen
    assert b"\x1b[?" not in rest, "no mode of the terminal to be set back"


def test_rows_that_do_not_fit_on_the_screen_are_counted(daemon: Daemon) -> None:
    for number in range(9):
        using(daemon, lambda store, number=number: store.save(SessionState(f"c{number}", status="active")))
    with OnTerminal(daemon, "ls --watch 60", lines=6) as watching:
        lines = plain(watching.until(b"more lines"))
        watching.ctrl_c()
        watching.rest()
    assert [line.split()[0] for line in lines[:4]] == ["ID", TWILIO, "c0", "c1"]
    assert lines[4] == "… 7 more lines"


def test_in_a_pipe_each_call_that_has_changed_is_a_line(daemon: Daemon) -> None:
    with Running(daemon, "ls --watch 60 --columns id,status,turns") as watching:
        assert watching.line().split() == ["ID", "STATUS", "TURNS"]
        assert watching.line().split() == [TWILIO, "active", "0"]
        wait_until(daemon, lambda stats: stats["subscribers"] == 1)
        using(daemon, lambda store: store.save(SessionState("b", status="on_hold")))
        assert watching.line().split() == ["b", "on_hold", "0"]
        using(daemon, lambda store: store.end(TWILIO, "caller_hangup"))
        assert watching.line().split() == [TWILIO, "ended", "(caller_hangup)", "0"]
        using(daemon, lambda store: store.delete("b"))
        assert watching.line().split() == ["b", "ended", "(deleted)", "0"]
        assert watching.interrupt() == (0, b"")
        assert watching.out == b""


def test_as_json_each_is_a_document(daemon: Daemon) -> None:
    with Running(daemon, "ls --watch 60 --json") as watching:
        assert json.loads(watching.line())["session"]["id"] == TWILIO
        wait_until(daemon, lambda stats: stats["subscribers"] == 1)
        using(daemon, lambda store: store.end(TWILIO, "caller_hangup"))
        assert json.loads(watching.line())["ended_reason"] == "caller_hangup"
        assert watching.interrupt() == (0, b"")


@pytest.mark.system
def test_a_restart_of_the_daemon_is_waited_for(daemon: Daemon) -> None:
    with Running(daemon, "ls --watch 0.2 --columns id,state") as watching:
        assert watching.line().split() == ["ID", "STATE"]
        assert watching.line().split() == [TWILIO]
        daemon.restart()
        assert watching.line().split() == [TWILIO, "restored"]
        assert watching.interrupt()[0] == 0
