"""Long histories that a change makes hot, or that the store gives, are in the journal before the change is made."""

from __future__ import annotations

import asyncio
import errno
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callstate_client.engine.sessions.parts import PART_BYTES, in_parts, parts_of, with_parts
from callstate_client.engine.sessions.records import (
    PartRecord,
    Record,
    StateRecord,
    decode_record,
    encode_record,
)
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import session_of
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_client.engine.sessions.turn_search import find_turn
from callstate_client.engine.sessions.written_parts import WrittenParts
from callstate_client.engine.table.replay import all_dirty, replay, snapshot
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.errors import NotDurableError
from callstate_sidecar.journal import Journal, PartsLog
from callstate_sidecar.journal.layout import log_path
from callstate_sidecar.read_through import ReadThrough
from callstate_sidecar.serving import server
from callstate_sidecar.write_behind import WriteBehind
from support.budget import sample
from support.core import HOST, BadDisk, Core, FakeClient, durable_state, off_loop, open_journal

TURN = {"role": "user", "content": "hello"}
TURNS = [{"role": ("user", "agent")[number == 500], "content": f"{number}{'x' * 900}"} for number in range(900)]
MEMBERS = {"id": "a", "updated_at": "2026-01-01T00:00:00Z", "provider": "sip"}
LIVE = msgspec.json.encode({**MEMBERS, "status": "active", "history": TURNS})
ENDED = msgspec.json.encode({**MEMBERS, "status": "ended", "history": TURNS})
META = StoredMeta(host=HOST, version=5, epoch=1, heartbeat_timeout_s=30.0)
BYTES = len(LIVE)

CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "turn": ("session.add_turn", {"turn": TURN}),
    "many turns": ("session.add_turn", {"turns": [TURN] * 400}),
    "amend": ("session.amend_turn", {"set": {"content": "instead"}, "index": 450}),
    "amend role": ("session.amend_turn", {"set": {"content": "instead"}, "role": "agent"}),
    "interruption": ("session.record_interruption", {}),
    "update": ("session.update", {"set": {"provider": "other"}}),
    "long update": ("session.update", {"set": {"recovery_data": {"text": "y" * 70_000}}}),
    "save": ("session.save", {"session": {"id": "a", "status": "active"}, "if_version": 0}),
    "extending save": ("session.save", {"session": {"id": "a", "status": "active", "history": [*TURNS, TURN]}}),
    "claim": ("session.claim", {"worker_id": "w1", "history": "none"}),
    "end": ("session.end", {}),
}
"""What makes a session hot that the Go package wrote."""


class Sizes(BadDisk):
    """Notes how much each write to the journal has."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def write(self, fd: int, data: bytes, at: int) -> None:
        """Write, and note it."""
        self.sizes.append(len(data))
        super().write(fd, data, at)


def with_journal(directory: Path, disk: BadDisk | None = None) -> tuple[Core, Journal]:
    """A core that writes long histories in parts, each in a turn of the loop of its own."""
    journal = open_journal(directory, disk or Sizes(), None, start=True)
    journal._segment_bytes = 1 << 22
    off_loop(journal.roll)
    core = Core(journal=journal)
    core.read_through = ReadThrough(core.ctx, core.writer.reads, HOST, PartsLog(journal, 0.0))
    core.serve(core.server, journal)
    return core, journal


def replayed(directory: Path) -> SessionTable:
    table = SessionTable()
    Journal(directory, checkpoint_min_bytes=1 << 30).replay(partial(replay, table))
    return table


def beside(core: Core, method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method != "session.save":
        return {"session_id": "a", **params}
    return {key: value for key, value in params.items() if key != "if_version"}


async def changed(core: Core, how: str) -> None:
    method, params = CHANGES[how]
    await core.call(method, **beside(core, method, params))


@pytest.mark.parametrize("how", CHANGES)
async def test_a_change_of_a_long_session_that_was_not_hot_writes_little_at_a_time(
    tmp_path: Path, how: str
) -> None:
    disk = Sizes()
    core, journal = with_journal(tmp_path, disk)
    core.memory.put("a", LIVE, None)
    await changed(core, how)
    assert sum(disk.sizes) > BYTES
    assert max(disk.sizes) < 2 * PART_BYTES
    assert core.memory.reads == ["a"]
    assert core.session("a").written is None
    await core.turn("a", "after")
    journal.close()
    assert durable_state(replayed(tmp_path)) == durable_state(core.table)


@pytest.mark.parametrize(
    "how", ["turn", "update", "long update", "interruption", "amend", "save", "extending save"]
)
async def test_so_does_one_of_a_session_that_has_ended(tmp_path: Path, how: str) -> None:
    disk = Sizes()
    core, journal = with_journal(tmp_path, disk)
    core.memory.put("a", ENDED, META)
    await changed(core, how)
    assert max(disk.sizes) < 2 * PART_BYTES
    journal.close()
    assert durable_state(replayed(tmp_path)) == durable_state(core.table)


@pytest.mark.parametrize("how", ["turn", "amend", "claim"])
async def test_a_crash_at_any_byte_leaves_all_of_the_change_or_no_session(tmp_path: Path, how: str) -> None:
    core, journal = with_journal(tmp_path)
    core.memory.put("a", LIVE, None)
    path, begin = log_path(tmp_path, journal.segment.generation), journal.segment.end
    await changed(core, how)
    end = journal.segment.end
    assert log_path(tmp_path, journal.segment.generation) == path
    journal.close()
    data = path.read_bytes()
    for cut_at in sample([*range(begin, end - 300, 30_011), *range(end - 300, end, 7)]):
        path.write_bytes(data[:cut_at])
        table = replayed(tmp_path)
        all_dirty(table, 0.0)
        assert (table.sessions, table.parts) == ({}, {}), cut_at
    path.write_bytes(data[:end])
    assert durable_state(replayed(tmp_path)) == durable_state(core.table)


async def test_requests_for_it_keep_their_order_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them are worked on in steps, and others come while its history is being written."""
    monkeypatch.setattr(server, "SHARE_S", 0.0)
    core, journal = with_journal(tmp_path)
    core.memory.put("a", LIVE, None)
    first, second = FakeClient(core), FakeClient(core)
    ids = first.send(
        ("session.update", {"session_id": "a", "set": {"recovery_data": {"text": "y" * 70_000}}}),
        ("session.add_turn", {"session_id": "a", "turn": TURN}),
    )
    while journal.sequence < 2:
        await asyncio.sleep(0)
    others = second.send(
        ("session.add_turn", {"session_id": "a", "turn": TURN}),
        ("session.load", {"session_id": "a", "history": "none"}),
    )
    while not (first.answered(ids) and second.answered(others)):
        await asyncio.sleep(0)
    assert core.session("a").doc.turn_count == 902
    counts = [first.replies[ids[1]]["result"]["turn_count"], second.replies[others[0]]["result"]["turn_count"]]
    assert sorted(counts) == [901, 902]
    assert second.replies[others[1]]["result"]["turn_count"] >= counts[1]
    assert core.server.waiting == 0
    await asyncio.sleep(0)
    journal.close()
    assert durable_state(replayed(tmp_path)) == durable_state(core.table)


async def test_a_refused_change_journals_nothing_of_it(tmp_path: Path) -> None:
    core, journal = with_journal(tmp_path)
    core.memory.put("a", ENDED, META)
    client = FakeClient(core)
    ids = client.send(("session.update", {"session_id": "a", "set": {"status": "active"}}))
    while not client.answered(ids):
        await asyncio.sleep(0)
    assert client.replies[ids[0]]["error"]["data"]["kind"] == "session_ended"
    assert journal.sequence == 0
    journal.close()


@pytest.mark.parametrize("parts_before", [0, 3])
async def test_a_full_disk_refuses_the_change(tmp_path: Path, parts_before: int) -> None:
    disk = Sizes()
    core, journal = with_journal(tmp_path, disk)
    core.memory.put("a", LIVE, None)
    client = FakeClient(core)
    ids = client.send(("session.add_turn", {"session_id": "a", "turn": TURN}))
    while journal.sequence < parts_before:
        await asyncio.sleep(0)
    disk.error = OSError(errno.ENOSPC, "no space")
    while not client.answered(ids):
        await asyncio.sleep(0)
    assert client.replies[ids[0]]["error"]["data"]["kind"] == NotDurableError.kind
    assert not core.table.sessions
    disk.error = None
    disk.sizes.clear()
    await core.turn("a")
    assert max(disk.sizes) < 2 * PART_BYTES
    journal.close()
    assert durable_state(replayed(tmp_path)) == durable_state(core.table)


async def test_a_group_that_fails_leaves_the_parts_for_the_next(tmp_path: Path) -> None:
    disk = Sizes()
    core, journal = with_journal(tmp_path, disk)
    session = session_of("a", StoredSession(LIVE, META), HOST)
    assert session is not None
    await PartsLog(journal).write(session)
    disk.error = OSError(errno.ENOSPC, "no space")
    core.tx.admit(session)
    core.commit()
    assert core.table.sessions == {"a": session}, "hot, and not journaled"
    disk.error = None
    disk.sizes.clear()
    await core.turn("a")
    assert max(disk.sizes) < PART_BYTES
    journal.close()
    assert durable_state(replayed(tmp_path)) == durable_state(core.table)


# -- what the store gives ---------------------------------------------------------------------------------------


def merging(directory: Path, disk: BadDisk, table: SessionTable | None = None) -> tuple[Core, Journal]:
    """A core whose write-behind writes long histories in parts."""
    journal = open_journal(directory, disk, table, start=True)
    journal._segment_bytes = 1 << 22
    off_loop(journal.roll)
    if table is not None:
        all_dirty(table, 0.0)
    core = Core(journal=journal, table=table)
    core.writer = WriteBehind(
        core.queue, core.backend, core.clock, core.config.store, core.metrics, HOST, core.events, core.commit,  # type: ignore[arg-type]
        core.writer._batches._outcomes._reconciler, PartsLog(journal, 0.0),
    )  # fmt: skip
    core.serve(core.server, journal)
    return core, journal


async def flush(core: Core) -> None:
    for _ in range(3):
        await core.writer.write_round()


async def test_a_merge_with_a_long_history_writes_little_at_a_time(tmp_path: Path) -> None:
    """The journal is older than the store, as after a restore of a backup."""
    journal = open_journal(tmp_path, BadDisk(), None, start=True)
    core = Core(journal=journal)
    await core.save("a")
    version = core.session("a").version
    journal.close()

    disk = Sizes()
    core, journal = merging(tmp_path, disk, SessionTable())
    about = StoredMeta(host=HOST, version=version + 1_000_000_000, epoch=1)
    core.memory.put("a", LIVE, about)
    await core.turn("a", "ours")
    disk.sizes.clear()
    await flush(core)
    session = core.session("a")
    assert session.doc.turn_count == 901
    assert max(disk.sizes) < 2 * PART_BYTES
    assert session.version > about.version
    journal.close()
    assert durable_state(replayed(tmp_path)) == durable_state(core.table)


async def test_a_merge_that_keeps_our_history_does_not_journal_it_again(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, BadDisk(), None, start=True)
    core = Core(journal=journal)
    await core.save("a")
    await core.turn("a", "replaced")
    version = core.session("a").version
    journal.close()

    disk = Sizes()
    core, journal = merging(tmp_path, disk, SessionTable())
    core.memory.put("a", LIVE, StoredMeta(host=HOST, version=version + 1_000_000_000, epoch=1))
    await core.save("a", session={"history": TURNS})
    disk.sizes.clear()
    await flush(core)
    assert core.session("a").doc.turn_count == 900
    assert core.session("a").doc.provider == "sip", "merged"
    assert sum(disk.sizes) < 3000
    journal.close()
    assert durable_state(replayed(tmp_path)) == durable_state(core.table)


# -- records ------------------------------------------------------------------------------------------------------


def written_session() -> tuple[Session, WrittenParts, list[Record]]:
    session = session_of("a", StoredSession(LIVE, META), HOST)
    assert session is not None
    parts = parts_of(session.doc)
    written = WrittenParts(7, [part.chunks for part in parts], lambda: True)
    return session, written, [part.record("a", 7, number) for number, part in enumerate(parts)]


@pytest.mark.parametrize("index", [0, 1, 450, 898, 899])
def test_what_an_amendment_leaves_of_the_parts_is_referred_to(index: int) -> None:
    session, written, before = written_session()
    session.doc.replace_turn(find_turn(session.doc, index), b'{"content":"instead"}')
    session.doc.append(b'{"content":"new"}', 1)
    records = with_parts(session, written)
    assert sum(len(encode_record(record)) for record in records) < 2 * PART_BYTES
    table = SessionTable()
    for record in (*before, *records):
        replay(table, decode_record(encode_record(record)))
    again = table.sessions["a"]
    assert again.doc.to_json(0) == session.doc.to_json(0)
    assert (again.doc.turn_count, again.doc.history_bytes) == (901, session.doc.history_bytes)
    assert table.parts == {}


def test_nothing_is_left_of_a_history_that_was_replaced() -> None:
    session, written, before = written_session()
    session.doc.replace_history(b"{}", 1)
    (turns, state) = with_parts(session, written)
    assert isinstance(turns, PartRecord)
    assert isinstance(state, StateRecord)
    assert (turns.turns, state.order) == (b"{}", [turns.number])
    table = SessionTable()
    for record in (*before, turns, state):
        replay(table, record)
    assert table.sessions["a"].doc.turn_count == 1


def test_a_snapshot_of_what_was_restored_from_parts_is_the_same() -> None:
    session, written, before = written_session()
    session.doc.replace_turn(find_turn(session.doc, 300), b'{"content":"instead"}')
    table, again = SessionTable(), SessionTable()
    for record in (*before, *with_parts(session, written)):
        replay(table, record)
    for record in snapshot(table):
        replay(again, record)
    assert durable_state(again) == durable_state(table)
    assert len([*in_parts(table.sessions["a"], 0)]) > 2


async def test_a_copy_that_is_dropped_is_not_journaled_again(tmp_path: Path) -> None:
    core = Core()
    await core.save("a")
    await core.turn("a", "x" * 10_000)
    core.tx.set_aside(core.session("a"), "other", 1)
    core.commit()
    core.logged.clear()
    core.tx.drop_copies("a")
    assert sum(len(encode_record(record)) for record in core.tx.records) < 200
    core.commit()
    assert len(core.table.set_aside) == 0
