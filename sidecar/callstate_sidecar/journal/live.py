"""Reading the journal of a daemon that may be running: a consistent state, without a word to the daemon.

The log only grows, and its records are checked, so what is read is the state at one moment, with everything that
was acknowledged before. Files are removed or used anew only after a checkpoint has replaced the manifest: if it is
another one afterwards, what was read may be mixed, and is read again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from callstate_client.engine.table.replay import replay as apply
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.journal.errors import JournalError
from callstate_sidecar.journal.manifest import Manifest, read_manifest
from callstate_sidecar.journal.replay import check_new, decoding, replay

ATTEMPTS: Final = 10
"""Checkpoints that may come in between: there are minutes between two of them, unless someone asks for them."""


def read_live(directory: Path) -> SessionTable:
    """The sessions of a journal.

    Raises:
        JournalError: it can't be read, or checkpoints come too fast.
    """
    for _ in range(ATTEMPTS):
        manifest = read_manifest(directory)
        try:
            table = _read(directory, manifest)
        except (JournalError, FileNotFoundError):
            if read_manifest(directory) == manifest:
                raise
            continue
        if read_manifest(directory) == manifest:
            return table
    raise JournalError(f"{directory} is replaced by checkpoints faster than it can be read: try again")


def _read(directory: Path, manifest: Manifest | None) -> SessionTable:
    table = SessionTable()
    if manifest is None:
        check_new(directory)
        return table
    replay(directory, manifest, decoding(directory, partial(apply, table)), written_to=True)
    return table
