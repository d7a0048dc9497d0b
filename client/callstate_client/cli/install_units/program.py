"""The callstated that the units start: where it is, and whether a unit can use it."""

from __future__ import annotations

import importlib.util
import re
import stat
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# What systemd would take for something else in ExecStart=: spaces, quotes, specifiers (%) and variables ($).
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._/+@:-]+")

_HIDDEN: Final = {
    "/home": "ProtectHome=yes",
    "/root": "ProtectHome=yes",
    "/run/user": "ProtectHome=yes",
    "/tmp": "PrivateTmp=yes",  # noqa: S108 - not written to
    "/var/tmp": "PrivateTmp=yes",  # noqa: S108
}
"""Directories that the unit hides from its process, and the directive that does so."""


class UnusableError(Exception):
    """No unit could start this callstated; says why, and what to do."""


def installed() -> Path:
    """The callstated of this installation.

    Raises:
        UnusableError: there is none.
    """
    folders = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    for folder in folders:
        if (folder / "callstated").is_file():
            return folder / "callstated"
    raise UnusableError(f"no callstated in {folders[0]}; give its path with --callstated")


def inside(root: Path, program: Path) -> Path:
    """The path that a program has for what runs inside of `root`, if it is in there; else its path here."""
    return Path("/", program.relative_to(root)) if program.is_relative_to(root) else program


def check_path(program: Path) -> None:
    """Check a path for `ExecStart=`.

    Raises:
        UnusableError: systemd would not take it, or the unit hides it.
    """
    if not _PLAIN_PATH.fullmatch(str(program)):
        raise UnusableError(f"not an absolute path that systemd takes as it stands: {program}")
    _check_visible(program)


def check_here(program: Path) -> None:
    """Check that the user callstate can run the callstated of this installation.

    Raises:
        UnusableError: it can't: a file is hidden or closed to others, or the daemon's extra is missing.
    """
    if importlib.util.find_spec("uvloop") is None:
        raise UnusableError(f"the daemon's extra is missing beside {program}: install callstate[sidecar]")
    package = Path(__file__).parents[2]
    for path in (program, Path(sys.executable), package):
        for each in (path, path.resolve()):
            _check_visible(each)
        _check_open(path.resolve())


def _check_visible(path: Path) -> None:
    for folder, directive in _HIDDEN.items():
        if path.is_relative_to(folder):
            raise UnusableError(
                f"{path} is hidden from the service ({directive}): install it elsewhere, as in /opt/callstate"
            )


def _check_open(path: Path) -> None:
    for each in _upwards(path):
        mode = each.stat().st_mode
        needed = stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
        if not mode & needed:
            raise UnusableError(f"the user callstate can't read {each}: chmod -R o+rX {each}")


def _upwards(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parents
