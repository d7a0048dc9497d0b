"""The Makefile, where it has to be kind: no venv to be had, and a daemon that runs already."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"
PATIENCE_S = 30.0

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(directory: Path, *arguments: str) -> list[str]:
    """The command line of a make that works in another directory than the Makefile's."""
    return ["make", "-f", str(MAKEFILE), "-C", str(directory), *arguments]


def environ() -> dict[str, str]:
    """Without what a make around these tests hands down."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        make(directory, *arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environ()
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What a target that installs looks at first."""
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


@pytest.mark.parametrize("target", ["run", "demo", "test", "test-quick", "lint"])
def test_without_venv_the_package_to_install_is_named(project: Path, target: str) -> None:
    python = project / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")  # as Debian's answers `import ensurepip` without python3-venv
    python.chmod(0o755)
    done = run(project, target, f"PYTHON={python}", "VENV=venv")
    assert done.returncode != 0
    assert "sudo apt install python3-venv" in done.stderr
    assert not (project / "venv").exists()


def test_without_a_python_that_is_new_enough_that_is_said(project: Path) -> None:
    done = run(project, "demo", "PYTHON=", "VENV=venv")
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr


def test_make_alone_lists_the_targets(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith("make")}
    assert {"run", "demo", "test", "test-quick", "lint"} <= listed


def test_the_tests_that_it_names_exist() -> None:
    named = re.findall(r"tests/[\w/.]+", MAKEFILE.read_text("utf-8"))
    assert [path for path in named if not (MAKEFILE.parent / path).exists()] == []


class Served:
    """`make run` in the foreground of a session of its own, as in a terminal."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.log: list[str] = []
        self._serving = threading.Event()
        self._make = subprocess.Popen(
            make(directory, *arguments, "run"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ(), start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()

    def _read_log(self) -> None:
        assert self._make.stderr is not None
        for line in self._make.stderr:
            self.log.append(line)
            if "serving on" in line:
                self._serving.set()

    def wait_serving(self) -> None:
        assert self._serving.wait(PATIENCE_S), self.log

    def press_ctrl_c(self) -> str:
        """The terminal's SIGINT to all of the session; gives what was printed before."""
        if self._make.poll() is None:
            os.killpg(self._make.pid, signal.SIGINT)
        self._make.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self._make.stdout is not None
        assert self._make.stderr is not None
        with self._make.stdout as stdout, self._make.stderr:
            return stdout.read()


def suggested(printed: str) -> list[str]:
    return [line.strip() for line in printed.splitlines() if line.startswith("    ")]


@pytest.mark.system
def test_run_serves_in_the_foreground_and_is_kind_about_a_second_one(short_dir: Path) -> None:
    # -o: what is installed here is not installed anew
    installed = [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.callstate-run"]
    first = Served(short_dir, *installed)
    try:
        first.wait_serving()
        second = run(short_dir, *installed, "run")
        assert second.returncode == 0, second.stderr
        assert "already runs" in second.stdout
        simulate, *others = suggested(second.stdout)
        assert " simulate " in simulate
        for command in others:
            done = subprocess.run(command, shell=True, cwd=short_dir, timeout=PATIENCE_S, check=False)  # noqa: S602
            assert done.returncode == 0, command
    finally:
        printed = first.press_ctrl_c()
    assert suggested(printed) == [simulate, *others]
    assert any("stopped" in line for line in first.log), first.log
    assert not (short_dir / ".run" / "callstate.sock").exists()
