"""Things by number: in order whatever comes and goes, in blocks that go with it."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from msgspec import Struct

from callstate_client.engine.numbered_order import BLOCK, NumberedOrder


class Entry(Struct, eq=False):
    """Something with a number."""

    name: str = ""
    seq: int = 0


def filled(count: int) -> tuple[NumberedOrder[Entry], list[Entry]]:
    """An order of so many, and the entries."""
    order: NumberedOrder[Entry] = NumberedOrder()
    entries = [Entry(f"s{number}") for number in range(count)]
    for each in entries:
        order.add(each)
    return order, entries


@pytest.mark.parametrize("seed", range(10))
def test_it_has_what_a_sorted_list_of_all_would_have(seed: int) -> None:
    chance = random.Random(seed)
    order: NumberedOrder[Entry] = NumberedOrder()
    model: list[Entry] = []
    gone: list[Entry] = []
    for _ in range(800):
        what = chance.random()
        if what < 0.4:
            model.append(Entry())
            order.add(model[-1])
        elif what < 0.5:
            model.insert(0, Entry())
            order.add_first(model[0])
        elif what < 0.6 and gone:
            model.append(gone.pop(chance.randrange(len(gone))))
            order.put(model[-1])
        elif model:
            gone.append(model.pop(chance.randrange(len(model))))
            order.drop(gone[-1])
        model.sort(key=lambda entry: entry.seq)
        assert len(order) == len(model)
        after = chance.randint(order.first - 2, order.last + 2)
        assert [*order.behind(after)] == [entry for entry in model if entry.seq > after]
    assert [*order] == model
    for each in model:
        order.drop(each)
    assert not order
    assert [*order] == []


def test_the_order_continues_after_a_number_whatever_was_dropped() -> None:
    roll, sessions = filled(10)
    assert list(roll.behind(0)) == sessions
    assert list(roll.behind(sessions[6].seq)) == sessions[7:]
    for gone in (sessions[7], sessions[9]):
        roll.drop(gone)
    assert list(roll.behind(sessions[6].seq)) == [sessions[8]]
    assert list(roll.behind(sessions[7].seq)) == [sessions[8]], "also behind one that is gone"
    assert not list(roll.behind(sessions[9].seq + 5))


def test_nothing_is_kept_of_what_is_gone() -> None:
    order, entries = filled(10 * BLOCK)
    for each in entries[1:]:
        order.drop(each)
    assert [*order] == entries[:1]
    assert len(order._blocks) == len(order._numbers) == 1
    order.drop(entries[0])
    assert not order._blocks
    assert not order._numbers


def test_the_first_costs_the_same_however_many_went_before_it() -> None:
    order, entries = filled(100 * BLOCK)
    for each in entries[:-1]:
        order.drop(each)
    seen = order._blocks = _Counting(order._blocks)
    assert [*order] == [*order.behind(0)] == entries[-1:]
    assert seen.read == 2, "a block each"


class _Counting(dict[int, list[Entry | None]]):
    """Counts how many blocks are read."""

    read = 0

    def __getitem__(self, number: int) -> list[Entry | None]:
        self.read += 1
        return super().__getitem__(number)


def test_no_part_of_it_grows_with_the_entries() -> None:
    """A dict of all would be copied as a whole by the entry for which it has no room."""
    order, entries = filled(300 * BLOCK)
    assert len(order._blocks) == len(order._numbers) <= 301
    assert {len(block) for block in order._blocks.values()} == {BLOCK}
    assert [*islice(order.behind(entries[-2].seq), 2)] == entries[-1:]


def test_chunks_have_everything_that_stays_whatever_comes_and_goes_in_between() -> None:
    roll, sessions = filled(10)
    chunks = roll.chunks(4)
    assert next(chunks) == sessions[:4]
    for gone in (sessions[3], sessions[4], sessions[8]):
        roll.drop(gone)
    roll.add(sessions[8])  # as a deletion that is rolled back
    comes = Entry("comes")
    roll.add(comes)
    assert [*chunks] == [[*sessions[5:8], sessions[9]], [sessions[8], comes]]
