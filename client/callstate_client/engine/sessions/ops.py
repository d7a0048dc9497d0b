"""Constants of repeatable mutations, those with an `op`: its result is kept, so that a repeat gets the same one."""

from __future__ import annotations

from typing import Final

KEPT_OPS: Final = 16
"""How many results a session keeps, those of its last repeatable mutations (part of the wire contract)."""

DELETED: Final = b"{}"
"""The result of a deletion, and of no other verb that takes an `op`."""
