"""`make demo` does what it says, its numbers agree with each other, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo.py"

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def numbers(report: str, row: str) -> list[int]:
    """The whole numbers of one line of the report."""
    line = next(line for line in report.splitlines() if line.startswith(f"  {row} "))
    return [int(number) for number in re.findall(r"(?<![\d.])\d+(?![\d.]*\d)", line[len(row) + 2 :])]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def run(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run it with a TMPDIR of its own."""
    return subprocess.run(
        [sys.executable, str(DEMO), *args],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"TMPDIR": str(directory)},
        check=False,
    )


@pytest.fixture(scope="module")
def demo():
    """One run of it, as `make demo` does, and what it left behind."""
    with tempfile.TemporaryDirectory(prefix="cs-") as directory:
        done = run(Path(directory))
        return done, list(Path(directory).iterdir())


def test_nothing_is_missing(demo):
    done, _ = demo
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is missing" in done.stdout


def test_the_numbers_agree(demo):
    report = demo[0].stdout
    first_pid = numbers(report, "daemon")[0]
    calls, scripted, *_ = numbers(report, "calls")
    killed_pid, live, acknowledged = numbers(report, "kill -9")[-3:]
    found_after, of_acknowledged = numbers(report, "after restart")
    found, of_all, lost, doubled, changed = numbers(report, "in all")
    ended, died = numbers(report, "workers")[:2]
    reaped, of_dead = numbers(report, "reaped")[:2]
    assert numbers(report, "workers")[2] == 1
    data_found, data_acknowledged = numbers(report, "their data")
    assert killed_pid == first_pid
    assert calls == 200
    assert 0 < live <= calls
    assert scripted // 2 <= acknowledged <= of_all
    assert found_after == of_acknowledged == acknowledged
    assert found == of_all == scripted
    assert (lost, doubled, changed) == (0, 0, 0)
    assert ended + died == calls
    assert 0 < died == reaped == of_dead
    assert 0 < data_found == data_acknowledged < found


def test_the_second_act_is_measured(demo):
    report = demo[0].stdout
    assert re.search(r"suspect +after [\d.]+ ms: worker_exited", report)
    assert re.search(r"claimed +after [\d.]+ ms by worker B, with 5 turns", report)
    assert "0 turns lost" in report


def test_the_picture_in_the_readme_shows_what_it_prints(demo):
    """The same lines; numbers that are measured differ."""
    assert "(docs/pictures/demo.svg)" in (ROOT / "README.md").read_text("utf-8")
    _, *events = (ROOT / "docs" / "pictures" / "demo.cast").read_text("utf-8").splitlines()
    shown = "".join(json.loads(event)[2] for event in events)

    def shape(report: str) -> list[str]:
        return [re.sub(r"\d+(\.\d+)?", "N", line) for line in report.strip().splitlines()]

    assert shape(demo[0].stdout) == shape(shown)


def test_it_ends_its_daemons_and_removes_its_files(demo):
    done, left_behind = demo
    pids = [int(pid) for pid in re.findall(r"pid (\d+)", done.stdout)]
    assert len(set(pids)) == 2
    assert not [pid for pid in set(pids) if alive(pid)]
    assert left_behind == []


def test_without_a_journal_it_finds_what_is_missing_and_fails():
    with tempfile.TemporaryDirectory(prefix="cs-") as directory:
        done = run(Path(directory), "--durability", "memory", "--calls", "40")
        assert list(Path(directory).iterdir()) == []
    found, acknowledged = numbers(done.stdout, "after restart")
    assert found < acknowledged
    assert done.returncode == 1
    assert "FAULTS" in done.stdout
