"""The local journal, which makes an acknowledged write durable. docs/durability.md is its specification."""

from callstate_sidecar.journal.checkpoint import Checkpointer
from callstate_sidecar.journal.errors import JournalDamagedError, JournalError, JournalFormatError
from callstate_sidecar.journal.log import Journal
from callstate_sidecar.journal.maintenance import Maintenance
from callstate_sidecar.journal.manifest import journal_host
from callstate_sidecar.journal.parts_log import PartsLog
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
    "PartsLog",
    "SyncGate",
    "journal_host",
]
