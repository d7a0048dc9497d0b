"""The first change of a session after a restart: what it is merged from is journaled with it, and no more."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.sessions.records import (
    BaseRecord,
    MergeBase,
    Record,
    StateRecord,
    TurnsRecord,
    encode_record,
)
from callstate_client.engine.table.replay import all_dirty, replay, snapshot
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.errors import NotDurableError
from callstate_sidecar.journal import Files, Journal
from callstate_sidecar.journal.layout import log_path
from support.budget import sample
from support.core import HOST, Core, durable_state, open_journal

TURN = {"role": "user", "content": "hello"}
CHANGES: dict[str, dict[str, Any]] = {
    "session.add_turn": {"turn": TURN},
    "session.amend_turn": {"set": {"content": "instead"}, "index": 1},
    "session.record_interruption": {},
    "session.update": {"set": {"status": "on_hold", "recovery_data": {"node": 1}}},
    "session.save": {"session": {"id": "a", "history": [TURN]}},
    "session.end": {"reason": "done"},
    "session.claim": {"worker_id": "w2"},
}
WITHOUT_HEAD = ("session.add_turn", "session.amend_turn", "session.record_interruption")


async def changed(core: Core, method: str) -> None:
    beside = {} if method == "session.save" else {"session_id": "a"}
    await core.call(method, **CHANGES[method], **beside)


async def with_turns(directory: Path) -> None:
    """A journal of a session with three long turns."""
    journal = open_journal(directory, Files(), None, start=True)
    core = Core(journal=journal)
    await core.save("a")
    for _ in range(3):
        await core.turn("a", "x" * 500)
    journal.close()


def restarted(directory: Path) -> tuple[Core, Journal]:
    table = SessionTable()
    journal = open_journal(directory, Files(), table, start=True)
    all_dirty(table, 0.0)
    return Core(journal=journal, table=table), journal


def replayed(directory: Path) -> SessionTable:
    table = SessionTable()
    Journal(directory, checkpoint_min_bytes=1 << 30).replay(partial(replay, table))
    return table


def bases(table: SessionTable) -> dict[str, MergeBase | None]:
    """What sessions are merged from after a start."""
    all_dirty(table, 0.0)
    return {session_id: session.base for session_id, session in table.sessions.items()}


@pytest.mark.parametrize("method", CHANGES)
async def test_what_has_not_changed_is_not_journaled_again(tmp_path: Path, method: str) -> None:
    await with_turns(tmp_path)
    core, journal = restarted(tmp_path)
    before, logged = bases(core.table), core.logged
    await changed(core, method)
    kinds: list[type[Record]] = [BaseRecord, TurnsRecord] if method in WITHOUT_HEAD else [StateRecord]
    assert [type(record) for record in logged] == kinds
    assert sum(len(encode_record(record)) for record in logged) < 1000
    base = core.session("a").base
    assert base is not None
    assert (base.version, base.fields) == (before["a"].version, before["a"].fields)  # type: ignore[union-attr]
    logged.clear()
    await changed(core, method)
    assert BaseRecord not in map(type, logged), "once"
    journal.close()
    table = replayed(tmp_path)
    assert durable_state(table) == durable_state(core.table)
    assert bases(table) == {"a": core.session("a").base}


@pytest.mark.parametrize("method", CHANGES)
async def test_a_crash_at_any_byte_leaves_it_as_before_or_after_with_its_merge_base(
    tmp_path: Path, method: str
) -> None:
    await with_turns(tmp_path)
    core, journal = restarted(tmp_path)
    path, begin = log_path(tmp_path, journal.segment.generation), journal.segment.end
    states, found = [durable_state(core.table)], [bases(core.table)]
    await changed(core, method)
    end = journal.segment.end
    states.append(durable_state(core.table))
    found.append(bases(core.table))
    journal.close()
    data = path.read_bytes()
    for cut_at in (*sample(range(begin, end)), end):
        path.write_bytes(data[:cut_at])
        table = replayed(tmp_path)
        is_there = cut_at == end
        assert durable_state(table) == states[is_there], cut_at
        assert bases(table) == found[is_there], cut_at


async def test_a_base_whose_change_was_cut_off_is_journaled_again(tmp_path: Path) -> None:
    """A checkpoint in between has the session without its base: nothing has changed."""
    await with_turns(tmp_path)
    core, journal = restarted(tmp_path)
    await core.turn("a")
    (base, _), known = core.logged, core.session("a").base
    last = log_path(tmp_path, journal.segment.generation)
    journal.close()
    last.unlink()

    table = SessionTable()
    for record in (*snapshot(replayed(tmp_path)), base):
        replay(table, record)
    all_dirty(table, 0.0)
    core = Core(table=table)
    await core.turn("a")
    assert [type(record) for record in core.logged] == [BaseRecord, TurnsRecord]
    assert core.session("a").base == known


async def test_a_snapshot_that_has_the_change_keeps_its_base(tmp_path: Path) -> None:
    """The log begins before the snapshot is complete, so the base may come after what it was made for."""
    await with_turns(tmp_path)
    core, journal = restarted(tmp_path)
    for method in ("session.add_turn", "session.amend_turn"):
        await changed(core, method)
    table = SessionTable()
    for record in (*snapshot(core.table), *core.logged):
        replay(table, record)
    assert bases(table) == {"a": core.session("a").base}
    assert durable_state(table) == durable_state(core.table)
    journal.close()


async def test_a_rollback_leaves_the_base_to_be_journaled(tmp_path: Path) -> None:
    await with_turns(tmp_path)
    core, journal = restarted(tmp_path)
    session = core.session("a")
    core.tx.change(session)
    session.doc.append(b"{}", 1)
    version = session.next_version(core.clock.wall_us())
    core.tx.log(session, TurnsRecord("a", version, 0, session.doc.metrics, 2, b"{}", 1), 0.0)
    assert not session.base_derived
    core.tx.rollback(NotDurableError("the disk is full"))
    await changed(core, "session.record_interruption")
    assert [type(record) for record in core.logged] == [BaseRecord, TurnsRecord]
    journal.close()


async def test_what_the_store_has_taken_has_no_base_any_more(tmp_path: Path) -> None:
    await with_turns(tmp_path)
    core, journal = restarted(tmp_path)
    for write, _ in core.queue.take(HOST, 10, 1 << 20):
        core.queue.acked(write)
    assert core.tx.records == [], "nothing is journaled of a base that a replay derives"
    await core.turn("a")
    assert [type(record) for record in core.logged] == [TurnsRecord]
    journal.close()
