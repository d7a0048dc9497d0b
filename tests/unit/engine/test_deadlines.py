"""Deadlines in a heap whose entries move."""

from __future__ import annotations

import random

import pytest

from callstate_client.engine.deadlines import Deadlines


def taken(deadlines: Deadlines) -> list[tuple[float, str]]:
    """All entries, the earliest first."""
    found = []
    while (first := deadlines.first()) is not None:
        found.append(first)
        deadlines.discard(first[1])
    return found


def test_there_is_no_first_of_none() -> None:
    assert Deadlines().first() is None


@pytest.mark.parametrize("seed", range(20))
def test_the_earliest_is_first_whatever_is_set_changed_and_discarded(seed: int) -> None:
    chance = random.Random(seed)
    deadlines, model = Deadlines(), dict[str, float]()
    for _ in range(500):
        name = f"s{chance.randrange(60)}"
        if chance.random() < 0.3:
            deadlines.discard(name)
            model.pop(name, None)
        else:
            model[name] = float(chance.randrange(40))
            deadlines.set(name, model[name])
        assert len(deadlines) == len(model)
        assert deadlines.first() == min(((at, name) for name, at in model.items()), default=None)
    assert {*deadlines.ids} == {*model}
    assert taken(deadlines) == sorted((at, name) for name, at in model.items())
