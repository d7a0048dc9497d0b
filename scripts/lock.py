"""The lock files of development: written by uv, checked against pyproject.toml without network.

`python scripts/lock.py UV` writes them anew, with the newest versions that pyproject.toml allows; `--check` fails
if a requirement of theirs is not in them. The ranges of pyproject.toml are what users get; the lock is what
`make` and CI install, with the hash of each file.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = {"requirements-dev.lock": ("dev", "docs"), "requirements-fuzz.lock": ("fuzz",)}
"""Each lock file, and the extras whose requirements it has."""

OLDEST_PYTHON = "3.11"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", re.MULTILINE)
_HEADER = "# Written by `make lock`: what `make` and CI install. pyproject.toml has the ranges that users get.\n"


def main(argv: list[str]) -> int:
    """Write or check the files; returns the exit status."""
    if argv == ["--check"]:
        missing = [line for name in LOCKS for line in unsatisfied(name)]
        sys.stderr.writelines(f"{line}; run: make lock\n" for line in missing)
        return int(bool(missing))
    for name, extras in LOCKS.items():
        chosen = [f"--extra={extra}" for extra in extras]
        written = subprocess.run(  # noqa: S603 - the uv that `make lock` has installed
            [argv[0], "pip", "compile", "--quiet", "--universal", f"--python-version={OLDEST_PYTHON}", "--upgrade",
             "--generate-hashes", "--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate",
             *chosen, "pyproject.toml"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        (ROOT / name).write_text(_HEADER + written)
    return 0


def unsatisfied(name: str) -> list[str]:
    """The requirements that a lock file doesn't satisfy, a sentence each."""
    pinned: dict[str, list[str]] = {}
    for package, version in _PINNED.findall((ROOT / name).read_text()):
        pinned.setdefault(canonicalize_name(package), []).append(version)
    found = []
    for requirement in required(LOCKS[name]):
        versions = pinned.get(canonicalize_name(requirement.name), [])
        if not any(requirement.specifier.contains(version, prereleases=True) for version in versions):
            found.append(f"{name} has {' and '.join(versions) or 'no'} {requirement.name}, not {requirement}")
    return found


def required(extras: tuple[str, ...]) -> list[Requirement]:
    """The requirements of the project with these extras, those of extras that they name included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    todo = [*extras]
    while todo:
        for text in project["optional-dependencies"][todo.pop()]:
            requirement = Requirement(text)
            if requirement.name == project["name"]:
                todo += requirement.extras
            else:
                found.append(requirement)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
