"""The journal's disk space: whether there is enough for a checkpoint, and what becomes of files that no longer
count.

Some of the segments that a checkpoint has replaced are kept as spares, to be overwritten by later segments: that is
cheaper to sync than extending a new file, by half and more.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Final

from callstate_sidecar.journal.layout import logs, snapshot_path, snapshots, spare_path, spares
from callstate_sidecar.journal.manifest import MANIFEST
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.system.files import Files

log = EventLog(__name__)

MAX_SPARES: Final = 4
"""Segments kept for reuse."""


def ensure_space(files: Files, directory: Path, snapshot_bytes: int, segment_bytes: int) -> None:
    """Check that there is space for a checkpoint, deleting spares if necessary.

    A checkpoint that ran out of space halfway would have filled the disk for all other processes.

    Args:
        snapshot_bytes: approximate size of the snapshot.
        segment_bytes: size of the segment that the checkpoint begins; 0 if it needs none.

    Raises:
        OSError: there is not enough, even without the spares; nothing was written.
    """
    kept = spares(directory)
    needed = snapshot_bytes + (0 if kept else segment_bytes)
    free = files.free_bytes(directory)
    for spare in kept[1:]:  # the first becomes the new segment
        if free is None or free >= needed:
            break
        files.unlink(spare)
        free = files.free_bytes(directory)
    if free is not None and free < needed:
        raise OSError(errno.ENOSPC, f"a checkpoint takes {needed} bytes, and {free} are free", str(directory))


def has_space(files: Files, directory: Path, needed: int, segment_bytes: int) -> bool:
    """Whether there are so many bytes, spares included; True if that is not known.

    Raises:
        OSError: of the file system.
    """
    free = files.free_bytes(directory)
    return free is None or free >= needed or free + len(spares(directory)) * segment_bytes >= needed


def remove_leftovers(files: Files, directory: Path, counted: set[int | None]) -> None:
    """Remove what failed checkpoints have left behind. Failures are harmless.

    Args:
        counted: generations of the snapshots that count.
    """
    left = [path for generation, path in snapshots(directory).items() if generation not in counted]
    for path in [*left, *directory.glob("snapshot-*.tmp"), directory / f"{MANIFEST}.tmp"]:
        with contextlib.suppress(OSError):
            files.unlink(path)


def remove_before(
    files: Files, directory: Path, generation: int, segment_bytes: int, *, max_spares: int = MAX_SPARES
) -> None:
    """Remove what a checkpoint has replaced, keeping some segments as spares. Failures are harmless."""
    kept = len(spares(directory))
    for older, path in logs(directory).items():
        if older >= generation:
            break
        try:
            if kept < max_spares and path.stat().st_size == segment_bytes:
                files.rename(path, spare_path(directory, older))
                kept += 1
            else:
                files.unlink(path)
        except OSError as error:
            log.warning("journal_file_left", "%s is no longer needed but can't be removed: %s", path, error)
    for path in snapshots(directory).values():
        if path != snapshot_path(directory, generation):
            with contextlib.suppress(OSError):
                files.unlink(path)


def remove_unused(files: Files, directory: Path) -> None:
    """Remove what holds bytes of earlier records and counts for nothing: spares, and tails that were set aside.

    Raises:
        OSError: of the file system.
    """
    asides = sorted(directory.glob("*.aside-*"))
    if asides:
        log.warning("journal_asides_removed", "removed for an erasure: %s", ", ".join(path.name for path in asides))
    for path in [*spares(directory), *asides]:
        files.unlink(path)


def check_removed(directory: Path, generation: int) -> None:
    """See that no file is left that a checkpoint has replaced, and none that holds bytes of earlier records.

    Raises:
        OSError: one is left.
    """
    left = [path for older, path in logs(directory).items() if older < generation]
    left += [path for each, path in snapshots(directory).items() if each != generation]
    left += [*spares(directory), *directory.glob("*.aside-*"), *directory.glob("snapshot-*.tmp")]
    if left:
        raise OSError(errno.EBUSY, "could not be removed", str(left[0]))
