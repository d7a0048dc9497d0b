"""Which sessions are read next: each user gets its turn, and of a user each process."""

from __future__ import annotations

from callstate_sidecar.wanted import Wanted


def test_they_come_out_in_order() -> None:
    wanted = Wanted()
    for number in range(5):
        wanted.add(f"s{number}", 1000, 1)
    assert len(wanted) == 5
    assert wanted.take(3) == ["s0", "s1", "s2"]
    wanted.add("s5", 1000, 1)
    assert wanted.take(9) == ["s3", "s4", "s5"]
    assert not wanted
    assert wanted.take(9) == []


def test_users_take_turns_and_so_do_processes_of_a_user() -> None:
    wanted = Wanted()
    for number in range(4):
        wanted.add(f"a{number}", 1000, 1)
        wanted.add(f"b{number}", 1000, 2)
    for number in range(4):
        wanted.add(f"c{number}", 2000, 3)
    assert wanted.take(8) == ["a0", "c0", "b0", "c1", "a1", "c2", "b1", "c3"]
    assert wanted.take(8) == ["a2", "b2", "a3", "b3"]


def test_one_that_comes_late_is_next_but_for_one_of_each_other_user() -> None:
    wanted = Wanted()
    for uid in (1000, 2000):
        for number in range(1000):
            wanted.add(f"{uid}-{number}", uid, number % 7)
    wanted.take(100)
    wanted.add("late", 3000, 1)
    assert "late" in wanted.take(3)
    wanted.add("later", 1000, 8)
    assert "later" in wanted.take(2 * 8)
