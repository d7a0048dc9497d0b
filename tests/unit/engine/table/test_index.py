"""What is kept about sessions beside the sessions: always what looking at all of them would give."""

from __future__ import annotations

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.index import MOST_STATUSES, OTHER, Index
from callstate_client.engine.user import UNKNOWN


def session(session_id: str, status: str = "active", owner: str = "") -> Session:
    """A hot session, numbered by its name."""
    head = read_head(b'{"id":"%b","status":"%b"}' % (session_id.encode(), status.encode()), "$", lambda _: "")
    made = Session(session_id, Document(head, 0))
    made.change_facts(owner=owner)
    made.seq = ord(session_id)
    return made


def owned(index: Index) -> dict[str, list[str]]:
    """The ids of each worker's sessions."""
    return {worker: [each.id for each in having] for worker, having in index.owned.items()}


def test_counts_and_owners_follow_each_change() -> None:
    index = Index()
    one, two = session("a", owner="w1"), session("b", "on_hold", "w1")
    for each in (one, two, one):
        index.update(each)
    assert index.by_status == {"active": 1, "on_hold": 1}
    assert owned(index) == {"w1": ["a", "b"]}
    one.doc.status = "ended"
    two.change_facts(owner="w2")
    index.update(one)
    index.update(two)
    assert index.by_status == {"ended": 1, "on_hold": 1}
    assert index.live == 1
    assert owned(index) == {"w1": ["a"], "w2": ["b"]}
    index.drop(one)
    index.drop(two)
    assert (index.by_status, index.owned, index.live) == ({}, {}, 0)


def test_figures_name_so_many_statuses_and_no_more() -> None:
    """A status is any text, and each session may have another one."""
    index, number = Index(), 3 * MOST_STATUSES
    for each in range(number):
        index.update(session(chr(1000 + each), f"status-{each}"))
    index.update(session("a", "ended"))
    index.update(session("b", OTHER))
    assert index.live == number + 1
    counts = index.status_counts()
    assert len(counts) == MOST_STATUSES + 2
    assert (counts["ended"], counts["status-0"]) == (1, 1)
    assert counts[OTHER] == number + 1 - MOST_STATUSES
    assert sum(counts.values()) == number + 2


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
