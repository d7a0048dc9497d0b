"""Room on disk: what no longer counts is removed or kept to be written again, and looked at before it is needed."""

from __future__ import annotations

import contextlib
import errno
import logging
from pathlib import Path
from typing import Final

from callstate_sidecar.journal.layout import (
    MANIFEST,
    logs,
    snapshot_path,
    snapshots,
)
from callstate_sidecar.system.files import Files

log = logging.getLogger(__name__)

MAX_SPARES: Final = 4
"""Segments kept to be written again: to overwrite is cheaper to sync than to grow, by half and more."""


def spares(directory: Path) -> list[Path]:
    """The segments that wait to be written again."""
    return sorted(directory.glob("spare-*.csj"))


def ensure_space(files: Files, directory: Path, snapshot_bytes: int, segment_bytes: int) -> None:
    """See to it that a checkpoint fits, giving up spares for it: one that fails halfway fills the disk for others.

    Args:
        snapshot_bytes: about how large the snapshot will be.
        segment_bytes: of the segment to begin with it; 0: none has to be.

    Raises:
        OSError: even without the spares there is less; nothing was written.
    """
    kept = spares(directory)
    needed = snapshot_bytes + (0 if kept else segment_bytes)
    free = files.free_bytes(directory)
    for spare in kept[1:]:  # the first becomes the segment to begin
        if free is None or free >= needed:
            break
        files.unlink(spare)
        free = files.free_bytes(directory)
    if free is not None and free < needed:
        raise OSError(errno.ENOSPC, f"a checkpoint takes {needed} bytes, and {free} are free", str(directory))


def remove_leftovers(files: Files, directory: Path, counted: set[int | None]) -> None:
    """Remove what checkpoints that failed have left. Failures do no harm.

    Args:
        counted: generations of snapshots that count.
    """
    left = [path for generation, path in snapshots(directory).items() if generation not in counted]
    for path in [*left, *directory.glob("snapshot-*.tmp"), directory / f"{MANIFEST}.tmp"]:
        with contextlib.suppress(OSError):
            files.unlink(path)


def remove_before(files: Files, directory: Path, generation: int, segment_bytes: int) -> None:
    """Remove what a checkpoint has replaced, keeping some segments to be written again. Failures do no harm."""
    kept = len(spares(directory))
    for older, path in logs(directory).items():
        if older >= generation:
            break
        try:
            if kept < MAX_SPARES and path.stat().st_size == segment_bytes:
                files.rename(path, directory / f"spare-{older:012d}.csj")
                kept += 1
            else:
                files.unlink(path)
        except OSError as error:
            log.warning("%s is not needed any more, and can't be removed: %s", path, error)
    for path in snapshots(directory).values():
        if path != snapshot_path(directory, generation):
            with contextlib.suppress(OSError):
                files.unlink(path)
