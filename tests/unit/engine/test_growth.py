"""No dict but the map of the sessions has an entry for each: another one would be copied in the same turn."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import pytest

from callstate_client.engine.evidence_queue import QUEUE_MOST
from callstate_client.engine.phases import Evidence
from support.table_harness import TableHarness

SESSIONS = 3 * QUEUE_MOST // 2
SHORT = QUEUE_MOST


def long_dicts(*roots: Any) -> Iterator[Any]:
    """All dicts and sets of more than SHORT entries that can be reached from these. A list may be long: it grows
    by a copy of its pointers, or none."""
    left, seen = deque(roots), {id(root) for root in roots}
    while left:
        each = left.popleft()
        if isinstance(each, dict | set) and len(each) > SHORT:
            yield each
        for inner in gc.get_referents(each):
            if id(inner) not in seen and not isinstance(inner, type | ModuleType | FunctionType):
                seen.add(id(inner))
                left.append(inner)


@pytest.fixture
def harness() -> TableHarness:
    """Sessions of one owner, with the same labels and timeout, a limit, and a change to be written."""
    harness = TableHarness()
    for number in range(SESSIONS):
        session = harness.create(f"s{number}")
        session.change_facts(owner="w1", labels={"app": "x"})
        harness.table.index.update(session)
        harness.liveness.watch(session, 0.0)
        harness.liveness.limit(session, 3600.0 + number)
    harness.tx.commit()
    return harness


def test_of_sessions_that_are_saved_nothing_else_is_long(harness: TableHarness) -> None:
    table, liveness = harness.table, harness.liveness
    assert len(table.dirty.marks) == len(liveness) == len(liveness.limited) == SESSIONS
    assert [*long_dicts(table, liveness)] == [table.sessions]


def test_of_sessions_that_become_orphans_or_suspects_one_dict_grows(harness: TableHarness) -> None:
    table, liveness = harness.table, harness.liveness
    for session in table.order:
        session.change_facts(owner="", orphan="released")
        table.index.update(session)
    orphans = table.index.orphans._entries
    assert len(orphans) == SESSIONS
    assert [*long_dicts(table, liveness)] == [table.sessions, orphans]
    for session in table.order:
        liveness.learn(session, Evidence.SILENCE, 0.0, labels=session.facts.labels)
    suspects = liveness.suspects._entries
    assert len(suspects) == SESSIONS
    assert [*long_dicts(liveness)] == [suspects]


def test_of_sessions_that_are_deleted_nothing_is_long(harness: TableHarness) -> None:
    table, liveness = harness.table, harness.liveness
    for session in [*table.order]:
        session.maybe_stored = True
        harness.remove(session)
        liveness.forget(session)
    harness.tx.commit()
    assert len(table.tombstones.pending) == len(table.dirty.marks) == SESSIONS
    assert [*long_dicts(table, liveness)] == []
