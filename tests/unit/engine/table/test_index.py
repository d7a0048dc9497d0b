"""What is kept about sessions beside the sessions: always what looking at all of them would give."""

from __future__ import annotations

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Entry
from callstate_client.engine.table.index import MIN_HOLES, Index, Roll


def entry(session_id: str, status: str = "active", owner: str = "") -> Entry:
    head = read_head(b'{"id":"%b","status":"%b"}' % (session_id.encode(), status.encode()), "$", lambda _: "")
    made = Entry(session_id, Document(head, 0))
    made.owner = owner
    return made


def test_counts_and_owners_follow_each_change() -> None:
    index = Index()
    one, two = entry("a", owner="w1"), entry("b", "on_hold", "w1")
    for each in (one, two, one):
        index.update(each)
    assert index.by_status == {"active": 1, "on_hold": 1}
    assert index.owned == {"w1": {"a": None, "b": None}}
    one.doc.status, two.owner = "ended", "w2"
    index.update(one)
    index.update(two)
    assert index.by_status == {"ended": 1, "on_hold": 1}
    assert index.live == 1
    assert index.owned == {"w1": {"a": None}, "w2": {"b": None}}
    index.drop(one)
    index.drop(two)
    assert (index.by_status, index.owned, index.live) == ({}, {}, 0)


def test_orphans_are_those_that_live_in_the_order_of_losing_their_owner() -> None:
    index = Index()
    entries = {name: entry(name, owner="w") for name in "abc"}
    for each in entries.values():
        index.update(each)
    assert not index.orphans
    for name in "cab":
        entries[name].owner, entries[name].orphan = "", "released"
        index.update(entries[name])
    index.update(entries["c"])
    assert list(index.orphans) == ["c", "a", "b"]
    entries["a"].doc.status = "ended"
    entries["c"].owner, entries["c"].orphan = "w2", ""
    index.update(entries["a"])
    index.update(entries["c"])
    assert list(index.orphans) == ["b"]
    index.drop(entries["b"])
    assert not index.orphans


def test_the_roll_goes_on_behind_a_number_whatever_has_gone() -> None:
    roll = Roll()
    entries = [entry(f"s{number}") for number in range(10)]
    for each in entries:
        roll.add(each)
    assert list(roll.behind(0)) == entries
    assert list(roll.behind(entries[6].seq)) == entries[7:]
    for gone in (entries[7], entries[9]):
        roll.drop(gone)
    assert list(roll.behind(entries[6].seq)) == [entries[8]]
    assert list(roll.behind(entries[7].seq)) == [entries[8]], "also behind one that is gone"
    assert not list(roll.behind(entries[9].seq + 5))


def test_the_roll_does_not_grow_with_what_has_been() -> None:
    roll = Roll()
    stays = entry("stays")
    roll.add(stays)
    for number in range(3 * MIN_HOLES):
        comes = entry(f"s{number}")
        roll.add(comes)
        roll.drop(comes)
    assert len(roll._numbers) <= MIN_HOLES + 3
    assert list(roll.behind(0)) == [stays]
