"""The files of a journal and their names.

MANIFEST               which files count: one line of JSON and its CRC (manifest.py)
snapshot-<gen>.csj     every hot session at one time
log-<gen>.csj          a segment of the log: the changes since; generations are consecutive
spare-<gen>.csj        a segment that is no longer needed, kept to be overwritten
*.tmp                  a file that is being written
*.aside-<n>            an incomplete tail that a start has cut off the log, kept for inspection
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

MAX_GENERATION: Final = 10**12 - 1
"""Names have twelve digits: a segment a millisecond for thirty years."""

_NUMBERED: Final = re.compile(r"\d{12}")


def log_path(directory: Path, generation: int) -> Path:
    """The path of a log segment."""
    return directory / f"log-{generation:012d}.csj"


def snapshot_path(directory: Path, generation: int) -> Path:
    """The path of a snapshot."""
    return directory / f"snapshot-{generation:012d}.csj"


def spare_path(directory: Path, generation: int) -> Path:
    """The path of a former segment that is kept as a spare."""
    return directory / f"spare-{generation:012d}.csj"


def generation_of(path: Path) -> int:
    """The generation in a file's name."""
    return int(path.stem.rpartition("-")[2])


def logs(directory: Path) -> dict[int, Path]:
    """The existing log segments by generation, in order."""
    return _by_generation(directory, "log")


def snapshots(directory: Path) -> dict[int, Path]:
    """The existing snapshots by generation, in order."""
    return _by_generation(directory, "snapshot")


def spares(directory: Path) -> list[Path]:
    """The existing spares, in order."""
    return [*_by_generation(directory, "spare").values()]


def _by_generation(directory: Path, kind: str) -> dict[int, Path]:
    """Files of other names are none of the journal's."""
    found = sorted(directory.glob(f"{kind}-*.csj"))
    return {generation_of(path): path for path in found if _NUMBERED.fullmatch(path.stem.rpartition("-")[2])}
