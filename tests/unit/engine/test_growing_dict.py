"""Dicts without a long step: as an OrderedDict does, in small parts."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from callstate_client.engine.growing_dict import SHARDS, GrowingDict


@pytest.mark.parametrize("seed", range(10))
def test_it_does_what_an_ordered_dict_does(seed: int) -> None:
    chance = random.Random(seed)
    growing: GrowingDict[int] = GrowingDict()
    model: OrderedDict[str, int] = OrderedDict()
    for number in range(600):
        key, what = f"s{chance.randrange(80)}", chance.random()
        assert (key in growing) == (key in model)
        assert growing.get(key) == model.get(key)
        assert growing.get(key, -1) == model.get(key, -1)
        if what < 0.5:
            growing[key] = model[key] = number
        elif what < 0.8:
            assert growing.pop(key, None) == model.pop(key, None)
        elif key in model:
            last = what < 0.9
            growing.move_to_end(key, last=last)
            model.move_to_end(key, last=last)
            assert growing[key] == model[key]
        assert len(growing) == len(model)
        assert [*growing.in_order()] == [*growing.items()] == [*model.items()]
    assert [*growing] == [*model]
    assert [*growing.chunks(7)] == [[*model][start : start + 7] for start in range(0, len(model), 7)]


def test_a_key_that_is_not_there_is_an_error() -> None:
    growing: GrowingDict[int] = GrowingDict()
    with pytest.raises(KeyError):
        growing["a"]
    with pytest.raises(KeyError):
        del growing["a"]
    with pytest.raises(KeyError):
        growing.move_to_end("a")
    assert not growing


def test_no_part_of_it_is_long() -> None:
    growing: GrowingDict[int] = GrowingDict()
    for number in range(SHARDS * 200):
        growing[f"s{number}"] = number
    assert max(map(len, growing._shards)) < 400
