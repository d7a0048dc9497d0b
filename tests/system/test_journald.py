"""The daemon's log in a real journal: systemd-journald in a mount namespace of its own, with a /run of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.daemon import Daemon
from support.wire import Wire

JOURNALD = "/lib/systemd/systemd-journald"
UNSHARE = ["unshare", "--mount", "--propagation", "private", "--"]

SCRIPT = f"""
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd /run/log/journal || exit 99
{JOURNALD} >/dev/null 2>&1 &
journald=$!
for _ in $(seq 400); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done
entries="$1"; shift
"$@" &
daemon=$!
trap 'kill -TERM $daemon' TERM
trap 'kill -HUP $daemon' HUP
wait $daemon; status=$?
while kill -0 $daemon 2>/dev/null; do wait $daemon; status=$?; done
journalctl --sync
journalctl --output json --all --no-pager SYSLOG_IDENTIFIER=callstated > "$entries"
kill $journald; wait $journald
exit $status
"""
"""Runs a daemon, passes signals on to it, and writes its entries of the journal to a file when it has ended."""


def missing() -> str:
    """Why there can be no journald here."""
    if sys.platform != "linux" or not (Path(JOURNALD).exists() and shutil.which("journalctl")):
        return "systemd-journald is not installed"
    done = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "a mount namespace takes root"


pytestmark = [pytest.mark.system, pytest.mark.skipif(bool(missing()), reason=missing() or "journald runs")]


class Journaled(Daemon):
    """A daemon that has a journal of its own."""

    def command(self) -> list[str]:
        """What is run."""
        return [*UNSHARE, "sh", "-c", SCRIPT, "sh", str(self.root / "entries"), *super().command()]

    def outputs(self) -> list[Path]:
        """The journal's entries, too."""
        return [*super().outputs(), self.root / "entries"]

    def entries(self) -> list[dict[str, Any]]:
        """What the journal has, once it is stopped."""
        return [json.loads(line) for line in (self.root / "entries").read_text("utf-8").splitlines()]


def peer_pid(wire: Wire) -> int:
    """The daemon's process id: what was started is a shell around it."""
    credentials = wire.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def is_written(pid: int, event: str) -> bool:
    """Whether the journal of this process has such an event already."""
    journal = ["--directory", f"/proc/{pid}/root/run/log/journal", "--quiet", "--output", "cat"]
    done = subprocess.run(["journalctl", *journal, f"CALLSTATE_EVENT={event}"], capture_output=True, check=True)
    return bool(done.stdout)


def test_events_and_sessions_are_fields_and_nothing_private_is_in_them() -> None:
    settings = ["log.format=journald", "log.level=debug", "log.burst=2", "reaper.grace_s=0"]
    daemon = Journaled(*(word for each in settings for word in ("--set", each)))
    config = daemon.root / "callstate.toml"
    config.write_text("")
    daemon.args += ["--config", str(config)]
    try:
        with Wire(daemon.start().socket) as wire:
            private = {"from": "+15550100999", "to": "+442079460123", "recovery_data": {"pin": "sesame-4711"}}
            turns = [{"role": "user", "content": "my secret words"}]
            for number in range(5):
                session = {"id": f"call-{number}", "history": turns, **private}
                wire.call("session.save", session=session, heartbeat_timeout_s=1)
            while wire.call("server.stats").get("reaped", 0) < 5:
                pass
            config.write_text("nonsense = 1")
            pid = peer_pid(wire)
            os.kill(pid, signal.SIGHUP)
            while not is_written(pid, "reload_failed"):
                pass
        assert daemon.terminate() == 0
        entries = daemon.entries()
    finally:
        daemon.close()
    by_event: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        by_event.setdefault(entry["CALLSTATE_EVENT"], []).append(entry)
    assert {"serving", "session_reaped", "reload_failed", "stopping", "stopped"} <= by_event.keys()
    *reaped, summary = by_event["session_reaped"]
    assert len(reaped) == 2
    assert all(entry["SESSION_ID"].startswith("call-") and entry["PRIORITY"] == "6" for entry in reaped)
    assert summary["SUPPRESSED"] == "3"
    assert by_event["reload_failed"][0]["PRIORITY"] == "3"
    assert {entry["_COMM"] for entry in entries} == {entries[0]["_COMM"]}  # one process wrote them all
    everything = json.dumps(entries)
    for secret in ("15550100999", "442079460123", "sesame", "secret words"):
        assert secret not in everything


def test_a_long_traceback_arrives_whole() -> None:
    """As a file, as it is larger than a datagram can be."""
    program = (
        "import os; from callstate_sidecar.logs.setup import configure_logging;"
        "from callstate_sidecar.logs.event_log import EventLog;"
        "configure_logging('info', 'journald', 0, os.environ);"
        "EventLog('callstate_sidecar.x').error('request_failed', 'x' * 900_000)"
    )
    daemon = Journaled()
    command = [*UNSHARE, "sh", "-c", SCRIPT, "sh", str(daemon.root / "entries"), sys.executable, "-c", program]
    try:
        subprocess.run(command, check=True, timeout=60)
        (entry,) = daemon.entries()
    finally:
        daemon.close()
    message = entry["MESSAGE"]
    assert len(message) == 900_000
