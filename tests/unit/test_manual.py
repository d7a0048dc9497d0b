"""Manual pages and shell completions: current, without faults, and of use in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "contrib/man").iterdir())
COMPLETIONS = ROOT / "contrib/completions"

IDS = "CA0123456789abcdef CAfedcba9876543210"


def run(*argv: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, argv)], capture_output=True, text=True, timeout=30, env=os.environ | environ, check=False
    )


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `callstate` knows two calls."""
    program = tmp_path / "callstate"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' ID {IDS}\n")
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_they_are_as_the_parsers_make_them() -> None:
    pytest.importorskip("shtab", reason="shtab, of the extra dev, is not installed")
    done = run(sys.executable, ROOT / "scripts/manual.py", "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_wheel_has_them() -> None:
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]
    shared = hatch["build"]["targets"]["wheel"]["shared-data"]
    assert {ROOT / name for name in shared} == {*PAGES, *COMPLETIONS.iterdir()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_no_faults(page: Path) -> None:
    needs("mandoc")
    assert [line for line in run("mandoc", "-T", "lint", "-W", "warning", page).stdout.splitlines()
            if "missing date" not in line] == []  # fmt: skip


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["callstate", "dr"], ["drain"]),
        (["callstate", "ls", "--scope", ""], ["host", "all"]),
        (["callstate", "ls", "--col"], ["--columns"]),
        (["callstate", "quarantine", "re"], ["retry"]),
        (["callstate", "show", "CAf"], ["CAfedcba9876543210"]),
        (["callstate", "end", ""], IDS.split()),
    ],
)
def test_bash_completes(words: list[str], found: list[str], path: str) -> None:
    needs("bash")
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"source {COMPLETIONS}/callstate.bash; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        "$(complete -p callstate | sed 's/.*-F \\([^ ]*\\).*/\\1/') "
        f"callstate '{words[-1]}' '{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = run("bash", "-c", script, PATH=path)
    assert {*found} <= {*done.stdout.split()}, done.stderr
    assert all(word.startswith(words[-1]) for word in done.stdout.split())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("callstate dr", ["drain"]),
        ("callstate ls --scope ", ["host", "all"]),
        ("callstate ls --col", ["--columns"]),
        ("callstate show CAf", ["CAfedcba9876543210"]),
    ],
)
def test_fish_completes(line: str, found: list[str], path: str, tmp_path: Path) -> None:
    needs("fish")
    script = f"source {COMPLETIONS}/callstate.fish; complete -C '{line}'"
    done = run("fish", "--no-config", "-c", script, PATH=path, HOME=str(tmp_path))
    assert {*found} <= {row.split("\t")[0] for row in done.stdout.splitlines()}, done.stderr


def test_zsh_takes_the_file_for_the_function_that_it_looks_for() -> None:
    needs("zsh")
    script = (
        f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit; compinit -u -D; "
        "print $_comps[callstate]; autoload +X _callstate && whence -w _callstate"
    )
    done = run("zsh", "-fc", script)
    assert (done.stdout.split(), done.stderr) == (["_callstate", "_callstate:", "function"], "")
