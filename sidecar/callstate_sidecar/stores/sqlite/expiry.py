"""The clock that sessions expire by: it counts the time in which the machine was seen to go on, and nothing else.

The wall clock may be set ahead by years, by hand or by a bad clock chip at boot, and every ended call would be gone
at once. So expiry has a clock of its own, which begins at the wall clock of the file's first use and goes on with
the time since boot. After another boot it goes on from where it was last seen: time in which nobody could look does
not make a session older.
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
"""How often the time is noted: what expiry may lag by after a boot, and a page written seldom enough to be free."""


def since_boot() -> float:
    """Seconds since boot, those of sleep included; nobody can set them."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def offset(connection: sqlite3.Connection, steady_ms: int) -> int | None:
    """What to add to the steady clock for this file's time; None where it does not go on from this boot.

    Args:
        connection: of a file that has the table.
        steady_ms: the present time of the steady clock.
    """
    boot = boot_id()
    row = connection.execute("SELECT boot_id, offset_ms, seen_ms FROM expiry_clock").fetchone()
    if row is None or not boot or row[0] != boot or row[1] + steady_ms < row[2]:
        return None
    return int(row[1])


def begin(connection: sqlite3.Connection, steady_ms: int) -> int:
    """Let the file's time go on from where it was last seen; gives the offset. To be called in a transaction."""
    row = connection.execute("SELECT seen_ms FROM expiry_clock").fetchone()
    seen_ms = time.time_ns() // 1_000_000 if row is None else row[0]
    connection.execute(
        "INSERT OR REPLACE INTO expiry_clock VALUES (1, ?, ?, ?)", (boot_id(), seen_ms - steady_ms, seen_ms)
    )
    return int(seen_ms) - steady_ms


def note(connection: sqlite3.Connection, now_ms: int) -> None:
    """The file was in use at this time."""
    connection.execute("UPDATE expiry_clock SET seen_ms = ? WHERE seen_ms < ?", (now_ms, now_ms - SEEN_EVERY_MS))
