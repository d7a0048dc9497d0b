"""Long histories are journaled in parts, between which other work is done, and count once all of them are there."""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from pathlib import Path

import pytest

from callstate_client.engine.sessions.parts import LONG_BYTES, PART_BYTES, in_parts
from callstate_client.engine.sessions.records import PartRecord, StateRecord, decode_record, encode_record
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import session_of
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_client.engine.table.replay import all_dirty, replay, snapshot
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.journal import Journal, PartsLog
from callstate_sidecar.journal.errors import JournalError
from callstate_sidecar.read_through import ReadThrough
from support.core import HOST, BadDisk, Core, durable_state, open_journal

TURNS = b",".join([b'{"role":"user","content":"%d%b"}' % (number, b"x" * 900) for number in range(900)])
DOCUMENT = b'{"id":"a","updated_at":"2026-01-01T00:00:00Z","status":"active","history":[%b]}' % TURNS
META = StoredMeta(host=HOST, version=5, epoch=1, heartbeat_timeout_s=30.0, ops={"op-1": b"{}"})
PARTS = 5


def long_session() -> Session:
    session = session_of("a", StoredSession(DOCUMENT, META), HOST)
    assert session is not None
    return session


def table_of(session: Session) -> SessionTable:
    table = SessionTable()
    table.insert(session)
    return table


def replayed(journal: Journal, directory: Path) -> SessionTable:
    journal.close()
    table = SessionTable()
    Journal(directory, checkpoint_min_bytes=1 << 30).replay(partial(replay, table))
    return table


def reading(core: Core, journal: Journal) -> None:
    """Have sessions that are read written in parts, giving way after each."""
    core.read_through = ReadThrough(core.ctx, core.writer.reads, HOST, PartsLog(journal, 0.0))
    core.serve(core.server, journal)


def test_a_replay_of_the_parts_gives_the_same_session() -> None:
    table, again = table_of(long_session()), SessionTable()
    records = [*snapshot(table)]
    assert [type(record) for record in records] == [PartRecord] * (len(records) - 1) + [StateRecord]
    assert len(records) == PARTS + 1
    assert max(len(encode_record(record)) for record in records) < 2 * PART_BYTES
    for record in records:
        replay(again, decode_record(encode_record(record)))
    assert durable_state(again) == durable_state(table)
    assert again.parts == {}


def test_a_short_session_is_one_record() -> None:
    session = long_session()
    session.doc.replace_history(TURNS[:LONG_BYTES], 1)
    assert [*in_parts(session, 1)] == [session.snapshot()]


def test_changes_between_the_parts_are_not_in_them() -> None:
    session, again = long_session(), SessionTable()
    records = in_parts(session, 1)
    replay(again, next(records))
    session.doc.append(b"{}", 1)
    session.version += 1
    session.doc.replace_history(b"", 0)
    for record in records:
        replay(again, record)
    assert durable_state(again) == durable_state(table_of(long_session()))


def test_parts_without_their_session_mean_nothing() -> None:
    *parts, _ = in_parts(long_session(), 1)
    table = SessionTable()
    for part in parts:
        replay(table, part)
    all_dirty(table, 0.0)
    assert (table.sessions, table.parts) == ({}, {})


@pytest.mark.parametrize("missing", [0, 1, PARTS - 1])
def test_a_session_without_one_of_its_parts_is_damaged(missing: int) -> None:
    records = [*in_parts(long_session(), 1)]
    del records[missing]
    table = SessionTable()
    with pytest.raises(ValueError, match=r"has \d+ parts, and \d+ of them"):
        for record in records:
            replay(table, record)


def test_parts_of_two_sessions_may_be_mixed() -> None:
    first, second = [*in_parts(long_session(), 1)], [*in_parts(long_session(), 2)]
    table = SessionTable()
    for pair in zip(first[:-1], second[:-1], strict=True):
        for record in pair:
            replay(table, record)
    replay(table, second[-1])
    assert durable_state(table) == durable_state(table_of(long_session()))


async def test_a_long_session_becomes_hot_in_turns_of_the_loop_and_is_restored(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, BadDisk(), None, start=True)
    core = Core(journal=journal)
    reading(core, journal)
    core.memory.put("a", DOCUMENT, META)
    appended: list[int] = []
    load = core.begin("session.heartbeat", b'{"session_id":"a"}')
    while not load.done():
        await asyncio.sleep(0)
        if not appended or journal.sequence != appended[-1]:
            appended.append(journal.sequence)
    assert len(appended) >= PARTS
    await core.turn("a", "after")
    table = replayed(journal, tmp_path)
    assert durable_state(table) == durable_state(core.table)
    assert table.sessions["a"].doc.turn_count == 901


async def test_a_kill_before_the_last_record_leaves_no_session(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, BadDisk(), None, start=True)
    await PartsLog(journal).write(long_session())
    assert journal.sequence == PARTS
    table = replayed(journal, tmp_path)
    assert table.sessions == {}


async def test_after_a_checkpoint_the_session_is_written_as_a_whole(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, BadDisk(), None, start=True)
    core, parts, session = Core(journal=journal), PartsLog(journal), long_session()
    await parts.write(session)
    journal.begin_checkpoint()
    core.tx.admit(session)
    assert [type(record) for record in core.tx.records] == [StateRecord]
    assert session.written is None
    core.commit()
    assert durable_state(replayed(journal, tmp_path)) == durable_state(core.table)


async def test_parts_that_a_checkpoint_has_left_behind_are_written_again(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, BadDisk(), None, start=True)
    parts, session = PartsLog(journal, 0.0), long_session()
    writing = asyncio.ensure_future(parts.write(session))
    while journal.sequence < PARTS - 1:
        await asyncio.sleep(0)
    journal.begin_checkpoint()
    await writing
    assert journal.sequence == 2 * PARTS
    assert session.written is not None
    assert session.written.still_count()
    await parts.write(session)
    assert journal.sequence == 2 * PARTS, "once"
    journal.close()


async def test_a_disk_that_fails_is_met_by_the_group(tmp_path: Path) -> None:
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    core = Core(journal=journal)
    reading(core, journal)
    core.memory.put("a", DOCUMENT, META)
    disk.error = OSError(errno.ENOSPC, "no space")
    assert (await core.call("session.load", session_id="a", history="none"))["turn_count"] == 900
    assert core.server.group.journal_state == "failing"
    disk.error = None
    await core.turn("a")
    assert core.server.group.journal_state == "ok"
    assert durable_state(replayed(journal, tmp_path)) == durable_state(core.table)


def test_a_journal_with_a_part_missing_is_refused(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, BadDisk(), None, start=True)
    first, second, *others = in_parts(long_session(), 1)
    journal.append([first, *others])
    with pytest.raises(JournalError, match="intact but can't be decoded: session a has"):
        replayed(journal, tmp_path)
    assert second.session_id == "a"
