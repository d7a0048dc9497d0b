"""Which primary of a cluster has which hash slots, and texts for keys that are to be in a given slot."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from redis.crc import key_slot
from redis.exceptions import ClusterDownError

from callstate_sidecar.stores.redis.connections import Node


class SlotMap:
    """Which primary has which slots.

    Args:
        reply: of CLUSTER SLOTS.
        asked: who gave it; nodes without an address of their own are there.

    Attributes:
        primaries: each once.
    """

    def __init__(self, reply: Iterable[Sequence[Any]], asked: Node) -> None:
        self._ranges = sorted((first, last, _node(primary, asked)) for first, last, primary, *_ in reply)
        self._starts = [first for first, _, _ in self._ranges]
        self._lowest: dict[Node, int] = {}
        for first, _, node in self._ranges:
            self._lowest.setdefault(node, first)
        self.primaries = sorted(self._lowest)

    def node(self, slot: int) -> Node:
        """The primary of a slot.

        Raises:
            ClusterDownError: none has it.
        """
        index = bisect.bisect(self._starts, slot) - 1
        if index < 0 or slot > self._ranges[index][1]:
            raise ClusterDownError(f"no primary has slot {slot}")
        return self._ranges[index][2]

    def tags(self) -> list[bytes]:
        """For each primary a text whose slot it has: the same one as long as it keeps its lowest slot."""
        return [slot_tag(self._lowest[node]) for node in self.primaries]


def _node(entry: Sequence[Any], asked: Node) -> Node:
    host = entry[0].decode() if entry[0] else ""
    return (host if host and host != "?" else asked[0]), int(entry[1])


# -- texts for a slot -----------------------------------------------------------------------------------------
#
# A slot is the low 14 bits of a CRC, and a CRC is linear: changing a bit of a text of fixed length flips the same
# bits of the slot whatever the text is. So the text for a slot is the solution of a system of linear equations over
# bits. Trying one text after the other takes tens of milliseconds where a primary has a single slot, as it has when
# a resharding begins.

_LETTERS: Final = b"@@@@"
"""Each has four bits that may be set: @ A B … O."""


def _flipped() -> Mapping[int, tuple[int, int]]:
    """By the highest slot bit that it flips: which slot bits a choice of text bits flips, and that choice."""
    found: dict[int, tuple[int, int]] = {}
    for bit in range(4 * len(_LETTERS)):
        flips, bits = key_slot(_text(1 << bit)) ^ key_slot(_LETTERS), 1 << bit
        while flips:
            other = found.setdefault(flips.bit_length(), (flips, bits))
            flips, bits = flips ^ other[0], bits ^ other[1]
    return found


def _text(bits: int) -> bytes:
    return bytes(letter | bits >> 4 * place & 0xF for place, letter in enumerate(_LETTERS))


_FLIPPED: Final = _flipped()


def slot_tag(slot: int) -> bytes:
    """Four letters that, in braces, put a key into this slot."""
    left, bits = slot ^ key_slot(_LETTERS), 0
    while left:
        flips, part = _FLIPPED[left.bit_length()]
        left, bits = left ^ flips, bits ^ part
    return _text(bits)
