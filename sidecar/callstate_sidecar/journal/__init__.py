"""The local journal: what makes an acknowledgement mean something. docs/durability.md is its specification."""

from callstate_sidecar.journal.checkpoint import Checkpointer
from callstate_sidecar.journal.layout import (
    JournalDamagedError,
    JournalError,
    JournalFormatError,
    journal_host,
)
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.journal.maintenance import Maintenance
from callstate_sidecar.journal.sync_gate import SyncGate
from callstate_sidecar.system.files import Files

__all__ = [
    "Checkpointer",
    "Files",
    "Journal",
    "JournalDamagedError",
    "JournalError",
    "JournalFormatError",
    "Maintenance",
    "SyncGate",
    "journal_host",
]
