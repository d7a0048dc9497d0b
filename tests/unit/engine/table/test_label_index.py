"""Ids found by their labels, compared with a search through all of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from callstate_client.engine.table.label_index import LabelIndex
from support.budget import examples

LABELS = st.dictionaries(st.sampled_from(["app", "lang"]), st.sampled_from("xy"))


@settings(max_examples=examples(100))
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | LABELS), max_size=30), LABELS)
def test_those_with_all_labels_are_found(
    steps: list[tuple[str, dict[str, str] | None]], wanted: dict[str, str]
) -> None:
    labelled, plain = LabelIndex(), {}
    for session_id, labels in steps:
        if labels is None:
            labelled.discard(session_id)
            plain.pop(session_id, None)
        else:
            labelled.put(session_id, labels)
            plain[session_id] = labels
    assert [*labelled] == [*plain]
    assert len(labelled) == len(plain)
    assert all(session_id in labelled for session_id in plain)
    found = [*labelled.having(wanted)]
    assert sorted(found) == sorted(i for i, labels in plain.items() if wanted.items() <= labels.items())
    if not wanted:
        assert found == [*plain]
    for session_id in [*plain]:
        labelled.discard(session_id)
    assert not labelled._having, "nothing is kept of what is gone"


def test_they_come_in_the_order_in_which_they_were_put_in() -> None:
    labelled = LabelIndex()
    for number in (3, 1, 2):
        labelled.put(f"s{number}", {"app": "x", "n": str(number)})
    labelled.put("s3", {"app": "x", "n": "3"})  # again: it stays where it was
    assert [*labelled.having({"app": "x"})] == ["s3", "s1", "s2"]
    assert [*labelled.having({"app": "x", "n": "1"})] == ["s1"]
    assert not [*labelled.having({"app": "x", "n": "4"})]


def test_a_session_added_again_keeps_its_old_position() -> None:
    index = LabelIndex()
    for name in ("s1", "s2", "s3", "s4"):
        index.put(name, {"app": "x"})
    places = {name: index.place(name) or 0 for name in ("s1", "s3")}
    for name in ("s3", "s1"):
        index.discard(name)
        index.put(name, {"app": "x"})
    assert [*index] == ["s2", "s4", "s3", "s1"]
    index.move_back(places | {"s9": 1})
    assert [*index] == [*index.having({"app": "x"})] == ["s1", "s2", "s3", "s4"]
    assert index.place("s9") is None
    index.put("s5", {})
    assert [*index] == ["s1", "s2", "s3", "s4", "s5"]


class Seen(str):
    """An id that counts how often it is looked at."""

    __slots__ = ()
    count = 0

    def __hash__(self) -> int:
        Seen.count += 1
        return super().__hash__()


def test_sessions_with_other_labels_are_not_scanned() -> None:
    labelled = LabelIndex()
    for number in range(1000):
        labelled.put(Seen(f"s{number}"), {"app": "x", "n": str(number)})
    Seen.count = 0
    assert not [*labelled.having({"app": "y"})]
    assert Seen.count == 0
    assert [*labelled.having({"app": "x", "n": "7"})] == ["s7"]
    assert Seen.count <= 2


def test_a_scan_goes_on_behind_the_place_that_it_came_to() -> None:
    """Half of them have one label, half the other, and one, the last, has both."""
    index = LabelIndex()
    for number in range(1000):
        index.put(f"s{number}", {"app": "x"} if number % 2 else {"lang": "y"})
    index.put("both", {"app": "x", "lang": "y"})
    wanted, scans = {"app": "x", "lang": "y"}, 0
    scan = index.scan(wanted, 0, 50)
    while scan.more:
        scans += 1
        index.discard(f"s{scans}")  # what was looked at may have gone
        index.put(f"later{scans}", {"app": "x"})
        scan = index.scan(wanted, scan.place, 50)
    assert scan.found == "both"
    assert 9 <= scans <= 11
    assert not index.scan(wanted, scan.place, 1000).more


def test_the_first_costs_the_same_however_many_went_before_it() -> None:
    index = LabelIndex()
    for number in range(5000):
        index.put(f"s{number}", {"app": "x"})
    for number in range(4990):
        assert index.scan({"app": "x"}, 0, 1).found == f"s{number}"
        index.discard(f"s{number}")
    assert len(index._having["app", "x"]._blocks) <= 2, "nothing is left of the others, to be passed over"


def test_relabelled_it_keeps_its_place_under_the_new_labels() -> None:
    index = LabelIndex()
    for name in ("s1", "s2", "s3"):
        index.put(name, {"app": "x"} if name != "s1" else {})
    index.put("s1", {"app": "x"})
    assert [*index] == [*index.having({"app": "x"})] == ["s1", "s2", "s3"]
