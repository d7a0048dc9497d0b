from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from callstate_client.engine_agenda import NEVER, Agenda


@dataclass(eq=False)
class Thing:
    name: str
    due: float = NEVER


def popped(agenda: Agenda[Thing], now: float) -> list[tuple[float, str]]:
    found = []
    while (due := agenda.pop(now)) is not None:
        found.append((due[0], due[1].name))
    return found


def test_what_is_due_comes_in_its_order() -> None:
    agenda = Agenda[Thing]()
    assert (agenda.next_at(), agenda.pop(1e9)) == (NEVER, None)
    for name, deadline in (("b", 2.0), ("c", 3.0), ("a", 1.0), ("a2", 1.0)):
        agenda.note(Thing(name), deadline)
    assert popped(agenda, 2.0) == [(1.0, "a"), (1.0, "a2"), (2.0, "b")]
    assert agenda.next_at() == 3.0


def test_noting_tells_whether_nothing_is_due_before() -> None:
    agenda = Agenda[Thing]()
    first, second = Thing("first"), Thing("second")
    assert agenda.note(first, 5.0)
    assert not agenda.note(second, 6.0)
    assert agenda.note(second, 4.0)
    assert not agenda.note(second, 9.0)  # put off: found when it is popped
    assert not agenda.note(first, NEVER)
    assert popped(agenda, 10.0) == [(4.0, "second"), (5.0, "first")]
    assert agenda.note(first, 7.0)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20) | st.none()), max_size=60))
def test_each_thing_is_popped_once_at_the_earliest_it_was_noted_for(steps: list[tuple[int, int | None]]) -> None:
    agenda = Agenda[Thing]()
    things = [Thing(str(n)) for n in range(5)]
    noted: dict[str, float] = {}
    for which, deadline in steps:
        if deadline is None:  # pop all that is due in the first half
            due = popped(agenda, 10.0)
            assert due == sorted(due, key=lambda each: each[0])
            assert {name: at for at, name in due} == {name: at for name, at in noted.items() if at <= 10}
            noted = {name: at for name, at in noted.items() if at > 10}
        else:
            agenda.note(things[which], float(deadline))
            name = things[which].name
            noted[name] = min(noted.get(name, NEVER), deadline)
        assert agenda.next_at() == min(noted.values(), default=NEVER)
