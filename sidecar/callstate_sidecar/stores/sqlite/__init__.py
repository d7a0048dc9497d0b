"""Sessions in one SQLite file, with nothing but the standard library."""

from callstate_sidecar.stores.sqlite.backend import SqliteBackend
from callstate_sidecar.stores.sqlite.store import SqliteStore

__all__ = ["SqliteBackend", "SqliteStore"]
