"""What type checkers make of the public API."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "tests" / "typing" / "program.py"
MISTAKES = ROOT / "tests" / "typing" / "mistakes.py"

CHECKERS = {
    "mypy": ["mypy", "--strict", "--enable-error-code", "unused-awaitable", "--no-error-summary", "--config-file="],
    "pyright": ["pyright"],
}

UNTYPED = {"plain_client.py"}
"""What is there to be written in another language; annotations would be in the way."""

# The examples of one folder import each other.
EXAMPLES = sorted({path.parent.relative_to(ROOT) for path in (ROOT / "examples").rglob("*.py")})

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_program_is_well_typed_and_mistakes_are_found(checker: str, tmp_path: Path) -> None:
    extra = ["--cache-dir", str(tmp_path)] if checker == "mypy" else []
    command = [sys.executable, "-m", *CHECKERS[checker], *extra, str(PROGRAM), str(MISTAKES)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout
    assert [line for line in said.splitlines() if " error: " in line and MISTAKES.name not in line] == []
    wrong = {n for n, line in enumerate(MISTAKES.read_text().splitlines(), 1) if line.endswith("# wrong")}
    found = {int(number) for number in re.findall(r"mistakes\.py:(\d+):.* error: ", said)}
    assert found == wrong, said


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy knows of our packages and others', for all folders."""
    return tmp_path_factory.mktemp("cache")


def typed(folder: Path) -> list[str]:
    return [str(path) for path in sorted((ROOT / folder).glob("*.py")) if path.name not in UNTYPED]


def accept(*command: str) -> None:
    """Run a type checker by the project's own settings, which leave out frameworks that may not be installed."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", EXAMPLES, ids=str)
def test_examples_are_well_typed_for_mypy(folder: Path, cache: Path) -> None:
    """Folder by folder: their modules have the same names."""
    accept("mypy", "--no-error-summary", "--cache-dir", str(cache), *typed(folder))


def test_examples_are_well_typed_for_pyright() -> None:
    accept("pyright", *(file for folder in EXAMPLES for file in typed(folder)))
