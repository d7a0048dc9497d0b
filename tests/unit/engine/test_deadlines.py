"""Deadlines in a heap whose entries move."""

from __future__ import annotations

import random

import pytest
from msgspec import Struct

from callstate_client.engine.deadlines import Deadlines


class Named(Struct, frozen=True):
    """Something with an id."""

    id: str


def first(deadlines: Deadlines[Named]) -> tuple[float, str] | None:
    """The earliest entry."""
    found = deadlines.first()
    return None if found is None else (found[0], found[1].id)


def taken(deadlines: Deadlines[Named]) -> list[tuple[float, str]]:
    """All entries, the earliest first."""
    found = []
    while (entry := first(deadlines)) is not None:
        found.append(entry)
        deadlines.discard(entry[1])
    return found


def test_there_is_no_first_of_none() -> None:
    assert Deadlines().first() is None


@pytest.mark.parametrize("seed", range(20))
def test_the_earliest_is_first_whatever_is_set_changed_and_discarded(seed: int) -> None:
    chance = random.Random(seed)
    deadlines, model = Deadlines[Named](), dict[str, float]()
    for _ in range(500):
        name = f"s{chance.randrange(60)}"
        if chance.random() < 0.3:
            deadlines.discard(name)
            model.pop(name, None)
        else:
            model[name] = float(chance.randrange(40))
            deadlines.set(Named(name), model[name])
        assert len(deadlines) == len(model)
        assert first(deadlines) == min(((at, name) for name, at in model.items()), default=None)
    assert {each.id for each in deadlines.all()} == {*model}
    assert taken(deadlines) == sorted((at, name) for name, at in model.items())
