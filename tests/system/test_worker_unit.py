"""examples/voice-worker.service: a worker's own unit, as systemd's tools see it; test_booted.py runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from callstate_client.adapters import fastapi
from callstate_client.transport.backoff import CLOSE_TIMEOUT_S

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "examples" / "voice-worker.service"
SOCKET = ROOT / "systemd" / "callstate.socket"
SERVICE = ROOT / "systemd" / "callstate.service"

pytestmark = pytest.mark.system


def values(name: str, unit: Path = UNIT) -> list[str]:
    """What a directive says, each time that it is given."""
    return re.findall(rf"^{name}=(.*)$", unit.read_text("utf-8"), re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_has_nothing_to_say_about_it(tmp_path: Path) -> None:
    for unit in (UNIT, SOCKET, SERVICE):  # verify looks for the programs, and for the units that are named
        text = unit.read_text("utf-8").replace("/usr/bin/callstated", sys.executable)
        (tmp_path / unit.name).write_text(text.replace("/opt/voice/bin/python", sys.executable))
    environ = os.environ | {"SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)],
        capture_output=True, text=True, timeout=60, check=False, env=environ,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_reason_stands_beside_each_directive() -> None:
    lines = UNIT.read_text("utf-8").splitlines()
    told_elsewhere = ("Description=", "Documentation=")
    unexplained = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"[A-Z]\w*=", line) and not before.startswith("#") and not line.startswith(told_elsewhere)
    ]
    assert unexplained == []


def test_it_waits_for_the_socket_and_may_use_it() -> None:
    assert "callstate.socket" in values("After")
    assert "callstate.socket" in values("Wants")
    assert values("SupplementaryGroups") == values("SocketGroup", SOCKET)


def test_a_worker_has_the_time_that_it_takes_to_leave() -> None:
    assert float(values("TimeoutStopSec")[0]) > fastapi.FINISH_S + CLOSE_TIMEOUT_S


def test_directives_that_hide_the_worker_from_the_daemon_are_absent() -> None:
    for name in ("PrivateUsers", "PrivatePIDs", "Requires", "BindsTo", "PartOf"):
        assert values(name) == []
