"""Queues by key without a long step: as an OrderedDict does, in parts."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callstate_client.engine import long_queue
from callstate_client.engine.long_queue import PART_MOST, LongQueue

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add first", "replace", "pop", "pop first", "to end", "to front"]),
        st.integers(0, 12).map("s{}".format),
    ),
    max_size=60,
)


@pytest.fixture(autouse=True, scope="module")
def short_parts() -> object:
    """So that a few entries are several parts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(long_queue, "PART_MOST", 3)
        yield patched


@given(STEPS)
def test_it_does_what_an_ordered_dict_does(steps: list[tuple[str, str]]) -> None:
    queue: LongQueue[int] = LongQueue()
    model: OrderedDict[str, int] = OrderedDict()
    for number, (step, named) in enumerate(steps):
        key = next(iter(queue)) if step == "pop first" and model else named
        there = key in model
        assert (key in queue) == there
        assert queue.get(key) == model.get(key)
        assert queue.get(key, -1) == model.get(key, -1)
        if not there:
            if step in ("add", "add first"):
                getattr(queue, step.replace(" ", "_"))(key, number)
                model[key] = number
                model.move_to_end(key, last=step == "add")
        elif step == "replace":
            part = queue.part_of(key)
            assert part is not None
            part[key] = model[key] = number
        elif step.startswith("pop"):
            assert queue.pop(key) == model.pop(key)
        elif step.startswith("to"):
            queue.move_to_end(key, last=step == "to end")
            model.move_to_end(key, last=step == "to end")
            assert queue[key] == model[key]
        assert len(queue) == len(model)
        assert bool(queue) == bool(model)
        assert [*queue] == [*model]
        assert [*queue.in_order()] == [*queue.items()] == [*model.items()]
        assert all(queue._parts) or len(queue._parts) == 1, "no part is kept that is empty"
        assert max(map(len, queue._parts)) <= 3


def test_a_key_that_is_not_there_is_an_error() -> None:
    queue: LongQueue[int] = LongQueue()
    with pytest.raises(KeyError):
        queue["a"]
    with pytest.raises(KeyError):
        queue.pop("a")
    with pytest.raises(KeyError):
        queue.move_to_end("a")
    assert not queue


def test_no_part_of_it_is_long_whichever_way_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_queue, "PART_MOST", PART_MOST)
    queue: LongQueue[int] = LongQueue()
    for number in range(2 * PART_MOST):
        queue.add(f"behind{number}", number)
        queue.add_first(f"ahead{number}", number)
    assert max(map(len, queue._parts)) == PART_MOST
    assert len(queue._parts) <= 5
    while queue:
        queue.pop(next(iter(queue)))
    assert len(queue._parts) == 1
