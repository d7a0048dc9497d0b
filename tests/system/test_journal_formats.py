"""Upgrade and downgrade: journals of all former formats are read and continued, and newer ones are refused."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from callstate_client.cli import main
from callstate_sidecar.journal.format import DATA_START, VERSION
from callstate_sidecar.journal.manifest import MANIFEST, Manifest, encode_manifest, read_manifest
from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.wire import Refused, Wire

pytestmark = pytest.mark.system

JOURNALS = Path(__file__).parents[1] / "data" / "journals"
FIXTURES = sorted(path.name for path in JOURNALS.iterdir() if path.is_dir())

of_every_format = pytest.mark.parametrize("name", FIXTURES)


def test_there_is_a_journal_of_every_former_format() -> None:
    assert [f"format-{number}-{kind}" for number in range(1, VERSION) for kind in ("checkpoint", "log")] == FIXTURES
    for name in FIXTURES:
        assert json.loads((JOURNALS / name / "journal" / MANIFEST).read_bytes()[:-10])["format"] == int(name[7])


def placed(name: str, daemon: Daemon) -> None:
    """Put a copy of a journal where a daemon will find it."""
    shutil.copytree(JOURNALS / name / "journal", daemon.state_dir / "journal")


def expected(name: str) -> dict[str, dict[str, Any]]:
    """What its own version read of it."""
    lines = (JOURNALS / name / "expected.ndjson").read_text("utf-8").splitlines()
    return {line["session"]["id"]: line for line in map(json.loads, lines)}


def exported(state_dir: Path) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "callstate_sidecar", "journal", "export", str(state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line["session"]["id"]: line for line in map(json.loads, done.stdout.splitlines())}


@of_every_format
def test_a_former_format_is_read_as_its_own_version_read_it(name: str) -> None:
    found = exported(JOURNALS / name)
    before = expected(name)
    assert found.keys() == before.keys()
    for session_id, line in before.items():
        assert {member: found[session_id][member] for member in line} == line


@of_every_format
def test_an_upgraded_daemon_goes_on_with_it(name: str) -> None:
    """Also over its own checkpoint, which is of the present format; it remembers results of `op`, and deletions."""
    daemon = Daemon()
    placed(name, daemon)
    before = expected(name)
    turn = {"role": "user", "content": "turn 5 🙂", "timestamp": "2026-05-01T12:00:01.5Z"}
    try:
        with Wire(daemon.start().socket) as wire:
            for session_id, line in before.items():
                loaded = wire.call("session.load", session_id=session_id)
                assert loaded["session"]["history"] == line["session"]["history"]
                assert loaded["labels"] == line["labels"]
            assert wire.call("session.add_turn", session_id="grown", turn=turn, op="op-5")["turn_count"] == 6
            assert wire.call("session.add_turn", session_id="grown", turn=turn, op="new")["turn_count"] == 7
            with pytest.raises(Refused, match="deleted"):
                wire.call("session.load", session_id="deleted")
        daemon.restart()
        manifest = read_manifest(daemon.state_dir / "journal")
        assert manifest is not None
        assert manifest.format == VERSION
        with Wire(daemon.socket) as wire:
            assert wire.call("session.load", session_id="grown")["turn_count"] == 7
            assert wire.call("session.load", session_id="ended")["ended_reason"] == "carrier_error"
        assert exported(daemon.state_dir).keys() == before.keys()
    finally:
        daemon.close()


def in_manifest(journal: Path) -> None:
    """Make the manifest one of the next format."""
    (journal / MANIFEST).write_bytes(encode_manifest(Manifest(None, 1, VERSION + 1)))


def in_segment(journal: Path) -> None:
    """Make a segment's header one of the next format."""
    (path,) = journal.glob("log-*.csj")
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 4, VERSION + 1)
    struct.pack_into("<I", data, 32, zlib.crc32(bytes(data[:32])))
    path.write_bytes(data[: max(len(data), DATA_START)])


@pytest.mark.parametrize("make_newer", [in_manifest, in_segment])
def test_a_journal_of_a_newer_version_is_refused_with_the_way_back(make_newer: Any) -> None:
    daemon = Daemon()
    placed("format-4-log", daemon)
    make_newer(daemon.state_dir / "journal")
    files = {path: path.read_bytes() for path in (daemon.state_dir / "journal").iterdir()}
    try:
        done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == Exit.JOURNAL
        (line,) = done.stderr.splitlines()
        assert f"has format {VERSION + 1}, and this callstated reads up to {VERSION}" in line
        assert "callstated journal export" in line
        assert "callstate import" in line
        assert {path: path.read_bytes() for path in (daemon.state_dir / "journal").iterdir()} == files
    finally:
        daemon.close()


def test_the_way_back_is_an_export_and_an_import(tmp_path: Path) -> None:
    """As documented: what a daemon has is exported from its journal, and imported by one with an empty one."""
    path = tmp_path / "calls.ndjson"
    with Daemon() as upgraded, Daemon() as former:
        with Wire(upgraded.socket) as wire:
            turn = {"role": "user", "content": "hello", "timestamp": "2026-05-01T12:00:01.5Z"}
            wire.call("session.save", session={"id": "c1", "status": "active", "history": [turn]})
        upgraded.terminate()
        command = [sys.executable, "-m", "callstate_sidecar", "journal", "export", str(upgraded.state_dir)]
        path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
        assert main(["--socket", str(former.socket), "import", str(path)]) == 0
        with Wire(former.socket) as wire:
            assert wire.call("session.load", session_id="c1")["session"]["history"] == [turn]
