"""What is kept about sessions beside the sessions: always what looking at all of them would give."""

from __future__ import annotations

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.index import MIN_HOLES, Index, NumberedOrder
from callstate_client.engine.user import UNKNOWN


def session(session_id: str, status: str = "active", owner: str = "") -> Session:
    head = read_head(b'{"id":"%b","status":"%b"}' % (session_id.encode(), status.encode()), "$", lambda _: "")
    made = Session(session_id, Document(head, 0))
    made.change_facts(owner=owner)
    return made


def test_counts_and_owners_follow_each_change() -> None:
    index = Index()
    one, two = session("a", owner="w1"), session("b", "on_hold", "w1")
    for each in (one, two, one):
        index.update(each)
    assert index.by_status == {"active": 1, "on_hold": 1}
    assert index.owned == {"w1": {"a": None, "b": None}}
    one.doc.status = "ended"
    two.change_facts(owner="w2")
    index.update(one)
    index.update(two)
    assert index.by_status == {"ended": 1, "on_hold": 1}
    assert index.live == 1
    assert index.owned == {"w1": {"a": None}, "w2": {"b": None}}
    index.drop(one)
    index.drop(two)
    assert (index.by_status, index.owned, index.live) == ({}, {}, 0)


def test_sessions_are_counted_by_the_user_that_created_them() -> None:
    index = Index()
    one, two, unknown = (session(name) for name in "abc")
    one.change_facts(uid=1000)
    two.change_facts(uid=1000)
    for each in (one, two, unknown):
        index.update(each)
    assert index.by_uid == {1000: 2, UNKNOWN: 1}
    unknown.change_facts(uid=1001)
    index.update(unknown)
    index.drop(one)
    assert index.by_uid == {1000: 1, 1001: 1}
    index.drop(two)
    index.drop(unknown)
    assert index.by_uid == {}


def test_orphans_are_those_that_live_in_the_order_of_losing_their_owner() -> None:
    index = Index()
    sessions = {name: session(name, owner="w") for name in "abc"}
    for each in sessions.values():
        index.update(each)
    assert not index.orphans
    for name in "cab":
        sessions[name].change_facts(owner="", orphan="released")
        index.update(sessions[name])
    index.update(sessions["c"])
    assert list(index.orphans) == ["c", "a", "b"]
    sessions["a"].doc.status = "ended"
    sessions["c"].change_facts(owner="w2", orphan="")
    index.update(sessions["a"])
    index.update(sessions["c"])
    assert list(index.orphans) == ["b"]
    index.drop(sessions["b"])
    assert not index.orphans


def test_the_order_continues_after_a_number_whatever_was_dropped() -> None:
    roll = NumberedOrder()
    sessions = [session(f"s{number}") for number in range(10)]
    for each in sessions:
        roll.add(each)
    assert list(roll.behind(0)) == sessions
    assert list(roll.behind(sessions[6].seq)) == sessions[7:]
    for gone in (sessions[7], sessions[9]):
        roll.drop(gone)
    assert list(roll.behind(sessions[6].seq)) == [sessions[8]]
    assert list(roll.behind(sessions[7].seq)) == [sessions[8]], "also behind one that is gone"
    assert not list(roll.behind(sessions[9].seq + 5))


def test_the_roll_does_not_grow_with_what_has_been() -> None:
    roll = NumberedOrder()
    stays = session("stays")
    roll.add(stays)
    for number in range(3 * MIN_HOLES):
        comes = session(f"s{number}")
        roll.add(comes)
        roll.drop(comes)
    assert len(roll._numbers) <= MIN_HOLES + 3
    assert list(roll.behind(0)) == [stays]


def test_chunks_have_everything_that_stays_whatever_comes_and_goes_in_between() -> None:
    roll = NumberedOrder()
    sessions = [session(f"s{number}") for number in range(10)]
    for each in sessions:
        roll.add(each)
    chunks = roll.chunks(4)
    assert next(chunks) == sessions[:4]
    for gone in (sessions[3], sessions[4], sessions[8]):
        roll.drop(gone)
    roll.add(sessions[8])  # as a deletion that is rolled back
    comes = session("comes")
    roll.add(comes)
    assert [*chunks] == [[*sessions[5:8], sessions[9]], [sessions[8], comes]]
