"""slot_map.py: the primary of each slot, and a text for each slot."""

from __future__ import annotations

import pytest
from redis.crc import key_slot
from redis.exceptions import ClusterDownError

from callstate_sidecar.stores.redis.slot_map import SlotMap, slot_tag

ASKED = ("10.0.0.9", 6379)
A, B = ("10.0.0.1", 7000), ("10.0.0.2", 7001)


def reply(*ranges: tuple[int, int, tuple[str, int]]) -> list[list[object]]:
    """As CLUSTER SLOTS has it, each range with a replica."""
    replica = [b"10.0.0.3", 7002, b"id", []]
    return [[first, last, [host.encode(), port, b"id", []], replica] for first, last, (host, port) in ranges]


def test_each_slot_has_a_text_of_its_own_slot() -> None:
    assert all(key_slot(b"prefix:{%b}" % slot_tag(slot)) == slot for slot in range(16384))
    assert all(slot_tag(slot).isascii() for slot in range(0, 16384, 100))


def test_slots_are_found_at_the_edges_of_their_ranges() -> None:
    slots = SlotMap(reply((8192, 16383, A), (0, 99, A), (100, 8191, B)), ASKED)
    assert [slots.node(slot) for slot in (0, 99, 100, 8191, 8192, 16383)] == [A, A, B, B, A, A]
    assert slots.primaries == [A, B]


def test_a_slot_that_nobody_has_is_down() -> None:
    slots = SlotMap(reply((5, 10, A)), ASKED)
    for slot in (0, 4, 11, 16383):
        with pytest.raises(ClusterDownError, match=f"no primary has slot {slot}"):
            slots.node(slot)


@pytest.mark.parametrize("unknown", ["", "?"])
def test_a_node_without_an_address_is_the_one_that_replied(unknown: str) -> None:
    assert SlotMap(reply((0, 16383, (unknown, 7000))), ASKED).node(1) == ("10.0.0.9", 7000)


def test_a_primary_of_one_slot_has_a_tag_too_and_tags_stay() -> None:
    slots = SlotMap(reply((0, 0, B), (1, 16383, A)), ASKED)
    assert [slots.node(key_slot(tag)) for tag in slots.tags()] == [A, B]
    before, after = SlotMap(reply((0, 16383, A)), ASKED), SlotMap(reply((0, 999, A), (1000, 16383, B)), ASKED)
    assert before.tags()[0] == after.tags()[0]
