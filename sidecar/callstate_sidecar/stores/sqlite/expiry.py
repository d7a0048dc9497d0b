"""The clock that sessions expire by: it advances only while the machine is known to be running.

The wall clock may be set ahead by years, by hand or by a bad clock chip at boot, and every ended call would expire
at once. So expiry has a clock of its own, which starts at the wall clock of the file's first use and advances with
the time since boot. After a reboot it continues from the last time noted in the file: a session does not age while
the machine is off.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from callstate_sidecar.system.host import boot_id

TABLE: Final = """
    CREATE TABLE IF NOT EXISTS expiry_clock (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        boot_id TEXT NOT NULL,
        offset_ms INTEGER NOT NULL,
        seen_ms INTEGER NOT NULL
    )
"""

SEEN_EVERY_MS: Final = 10_000
"""How often the time is noted in the file: how far expiry may lag after a reboot; rare enough to cost nothing."""


def offset(connection: sqlite3.Connection, steady_ms: int) -> int | None:
    """What to add to the steady clock to get this file's time; None if the file was last used in another boot.

    Args:
        connection: to a file that has the table.
        steady_ms: the present time of the steady clock.
    """
    boot = boot_id()
    row = connection.execute("SELECT boot_id, offset_ms, seen_ms FROM expiry_clock").fetchone()
    if row is None or not boot or row[0] != boot or row[1] + steady_ms < row[2]:
        return None
    return int(row[1])


def begin(connection: sqlite3.Connection, steady_ms: int) -> int:
    """Continue the file's time from where it was last noted; returns the offset. Call it in a transaction."""
    row = connection.execute("SELECT seen_ms FROM expiry_clock").fetchone()
    seen_ms = time.time_ns() // 1_000_000 if row is None else row[0]
    connection.execute(
        "INSERT OR REPLACE INTO expiry_clock VALUES (1, ?, ?, ?)", (boot_id(), seen_ms - steady_ms, seen_ms)
    )
    return int(seen_ms) - steady_ms


def note(connection: sqlite3.Connection, now_ms: int) -> None:
    """Note in the file that it was in use at this time."""
    connection.execute("UPDATE expiry_clock SET seen_ms = ? WHERE seen_ms < ?", (now_ms, now_ms - SEEN_EVERY_MS))
