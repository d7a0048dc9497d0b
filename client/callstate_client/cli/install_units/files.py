"""What is installed where, and how a file that is there already is dealt with. Nothing here writes.

Each installed file begins with a line that has the digest of the rest. So a file that somebody has edited is told
from one of an earlier version, and is never lost: it is kept beside the new one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

PACKAGED_PROGRAM: Final = "/usr/bin/callstated"
"""The path in the packaged units that gives way to that of the installed program."""

_UNIT_DIR: Final = Path("etc/systemd/system")
_PLACES: Final = {
    "callstate.service": _UNIT_DIR / "callstate.service",
    "callstate.socket": _UNIT_DIR / "callstate.socket",
    "callstate@.service": _UNIT_DIR / "callstate@.service",
    "callstate@.socket": _UNIT_DIR / "callstate@.socket",
    "callstate.sysusers.conf": Path("etc/sysusers.d/callstate.conf"),
    "callstate.tmpfiles.conf": Path("etc/tmpfiles.d/callstate.conf"),
}
"""Where each packaged file belongs, relative to the root."""

CONFIG_NAME: Final = "callstate.toml"
CONFIG_PLACE: Final = Path("etc/callstate", CONFIG_NAME)
DROP_IN_DIR: Final = _UNIT_DIR / "callstate.service.d"

LEFT: Final = {
    "etc/callstate": "the configuration",
    "etc/credstore/callstate.*": "the Redis password",
    "var/lib/callstate*": "journal, SQLite file and host id",
}
"""What a removal leaves: patterns relative to the root, of all instances."""

_MARK: Final = re.compile(
    r"# By `callstate install-units` \S+; edits are kept aside at the next\. sha256:([0-9a-f]{64})\n"
)


class Outcome(StrEnum):
    """What becomes of a file."""

    CREATE = "create"
    UNCHANGED = "unchanged"
    UPDATE = "update"
    REPLACE = "replace"
    """It was edited, or is not ours: it is kept aside."""
    KEEP = "keep"
    """Configuration, or a link such as that of `systemctl mask`: it is the operator's, whatever it says."""
    REMOVE = "remove"
    SET_ASIDE = "set aside"
    """To be removed, but it was edited."""


class Step(NamedTuple):
    """One file: what becomes of it, and its new text, if it gets one."""

    outcome: Outcome
    path: Path
    text: str = ""

    @property
    def writes(self) -> bool:
        """Whether the file is written."""
        return self.outcome in (Outcome.CREATE, Outcome.UPDATE, Outcome.REPLACE)

    @property
    def removes(self) -> bool:
        """Whether there is no such file afterwards."""
        return self.outcome in (Outcome.REMOVE, Outcome.SET_ASIDE)

    @property
    def keeps_aside(self) -> bool:
        """Whether what is there now is kept under another name."""
        return self.outcome in (Outcome.REPLACE, Outcome.SET_ASIDE)


def packaged() -> Path:
    """The folder of the packaged files: in a wheel beside this module, in a checkout `systemd/`."""
    beside = Path(__file__).with_name("systemd")
    return beside if beside.is_dir() else Path(__file__).parents[4] / "systemd"


def drop_ins() -> list[str]:
    """The names of the packaged drop-ins."""
    return sorted(path.stem for path in (packaged() / "drop-ins").glob("*.conf"))


def installation(root: Path, program: Path, version: str, wanted: Iterable[str]) -> Iterator[Step]:
    """The steps of an installation.

    Args:
        root: of the system; `/`, or that of an image.
        program: callstated, as the path is inside of the root.
        version: of this package, for the first line of the files.
        wanted: names of drop-ins to be installed as well, besides those that are there already.
    """
    present = [name for name in drop_ins() if (root / DROP_IN_DIR / f"{name}.conf").exists()]
    for source, target in _targets(sorted({*wanted, *present})):
        text = _marked(source.read_text("utf-8").replace(PACKAGED_PROGRAM, str(program)), version)
        yield Step(_outcome(root / target, text), root / target, text)
    config = root / CONFIG_PLACE
    text = (packaged() / CONFIG_NAME).read_text("utf-8")
    yield Step(Outcome.KEEP if config.exists() else Outcome.CREATE, config, text)


def removal(root: Path) -> Iterator[Step]:
    """The steps of a removal: of what is there."""
    for _, target in _targets(drop_ins()):
        path = root / target
        if path.is_symlink():
            yield Step(Outcome.KEEP, path)
        elif path.exists():
            yield Step(Outcome.REMOVE if _is_intact(_read(path)) else Outcome.SET_ASIDE, path)


def left(root: Path) -> Iterator[str]:
    """What a removal leaves there, each with what it is."""
    for pattern, what in LEFT.items():
        for path in sorted(root.glob(pattern)):
            yield f"{path} ({what})"


def aside(path: Path) -> Path:
    """Where an edited file is kept: a name that systemd does not read, and that is free."""
    number = 1
    while (kept := path.with_name(f"{path.name}.saved{number}")).exists():
        number += 1
    return kept


def _targets(wanted: Iterable[str]) -> Iterator[tuple[Path, Path]]:
    folder = packaged()
    for name, place in _PLACES.items():
        yield folder / name, place
    for name in wanted:
        yield folder / "drop-ins" / f"{name}.conf", DROP_IN_DIR / f"{name}.conf"


def _outcome(path: Path, text: str) -> Outcome:
    if path.is_symlink():
        return Outcome.KEEP
    if not path.exists():
        return Outcome.CREATE
    there = _read(path)
    if there == text:
        return Outcome.UNCHANGED
    return Outcome.UPDATE if _is_intact(there) else Outcome.REPLACE


def _marked(text: str, version: str) -> str:
    mark = f"# By `callstate install-units` {version}; edits are kept aside at the next. sha256:{_digest(text)}"
    return f"{mark}\n{text}"


def _is_intact(text: str) -> bool:
    """Whether a file is as it was installed."""
    mark = _MARK.match(text)
    return mark is not None and mark[1] == _digest(text[mark.end() :])


def _read(path: Path) -> str:
    """A file that may be anybody's."""
    return path.read_text("utf-8", "replace")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
