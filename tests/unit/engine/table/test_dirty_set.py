"""What the store does not have yet, as it is counted."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from callstate_client.engine.table.dirty_set import DirtySet, Mark

STEPS = st.tuples(
    st.sampled_from(["mark", "discard", "depart", "arrive", "retry", "flush"]),
    st.sampled_from("abc"),
    st.integers(0, 1000),
)


@given(st.lists(STEPS, max_size=40))
def test_each_session_counts_once_with_its_newest_state(steps: list[tuple[str, str, int]]) -> None:
    dirty = DirtySet()
    marked: dict[str, int] = {}
    flying: dict[str, int] = {}
    for step, name, size in steps:
        if step == "mark":
            dirty.mark(name, 0.0, size)
            marked[name] = size
        elif step == "discard":
            dirty.discard(name)
            marked.pop(name, None)
        elif step == "depart" and name in marked:
            dirty.depart(name)
            flying[name] = marked.pop(name)
        elif step == "arrive" and name in flying:
            dirty.arrive(name)
            del flying[name]
        elif step == "retry" and name in flying:
            dirty.retry(name, 0.0, size, dirty.arrive(name))
            del flying[name]
            marked[name] = size
        elif step == "flush":
            dirty.end_era()
        newest = flying | marked
        assert dirty.size_bytes == sum(newest.values())
        assert dirty.sessions == len(newest)
        eras = [mark.era for mark in (*dirty.marks.values(), *dirty.in_flight.values())]
        assert all(dirty.unwritten(era) == sum(each <= era for each in eras) for era in range(dirty._era + 1))
        for era in range(dirty._era + 1):
            unwritten = {name for name in newest if dirty.is_unwritten(name, era)}
            assert dirty.unwritten_sessions(era) == len(unwritten)
        assert dirty._again == flying.keys() & marked.keys()
        assert all(dirty._earlier.values()), "what is written leaves no count"


class Uncounted(dict[str, Mark]):
    """What nobody may look at one by one."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("each is looked at")

    values = items = keys = __iter__  # type: ignore[assignment]


def test_those_in_flight_are_not_counted_one_by_one() -> None:
    """To a primary of a cluster that is away there may be a hundred thousand."""
    dirty = DirtySet()
    dirty.in_flight = Uncounted()
    for number in range(100):
        dirty.mark(f"s{number}", 0.0, 10)
        dirty.depart(f"s{number}")
    dirty.mark("s7", 0.0, 10)
    era = dirty.end_era()
    dirty.mark("s8", 0.0, 10)
    assert dirty.sessions == 100
    assert (dirty.unwritten(era), dirty.unwritten_sessions(era)) == (101, 100)
