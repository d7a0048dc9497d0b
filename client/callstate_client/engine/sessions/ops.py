"""Constants of repeatable mutations, those with an `op`: its result is kept, so that a repeat gets the same one."""

from __future__ import annotations

from typing import Final

KEPT_OPS: Final = 16
"""How many results a session keeps, those of its last repeatable mutations (part of the wire contract)."""

DELETED: Final = b"{}"
"""The result of a deletion, and of no other verb that takes an `op`."""

OP_BYTES: Final = 130
"""Memory of a kept result beside its text and that of its `op` (measured; see weight.py)."""


def op_weight(op: str, result: bytes) -> int:
    """Bytes that one kept result takes."""
    return OP_BYTES + len(op) + len(result)
