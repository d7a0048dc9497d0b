"""What the journal hears: of a save that extends the history what it adds, of a deletion that it has arrived."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from callstate_client.engine.sessions.records import HistoryMode, StateRecord
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.errors import NotDurableError
from support.core import HOST, BadDisk, Core, open_journal


def turns(count: int) -> list[dict[str, object]]:
    return [
        {"role": "user", "content": f"turn {n} " + "x" * 100, "timestamp": "2026-01-01T00:00:00Z", "duration_ms": 9}
        for n in range(count)
    ]


async def saved(core: Core, history: list[dict[str, object]]) -> StateRecord:
    await core.call("session.save", session={"id": "c1", "history": history})
    record = core.logged[-1]
    assert isinstance(record, StateRecord)
    return record


async def test_only_what_is_new_goes_to_the_journal() -> None:
    core = Core()
    first = await saved(core, turns(200))
    assert (HistoryMode(first.mode), first.count) == (HistoryMode.REPLACE, 200)
    more = await saved(core, turns(203))
    assert (HistoryMode(more.mode), more.count) == (HistoryMode.APPEND, 3)
    assert len(more.turns) < len(first.turns) / 50
    same = await saved(core, turns(203))
    assert (HistoryMode(same.mode), same.turns) == (HistoryMode.KEEP, b"")
    fewer = await saved(core, turns(5))
    assert (HistoryMode(fewer.mode), fewer.count) == (HistoryMode.REPLACE, 5)
    assert core.replayed().sessions["c1"].doc.to_json(0) == core.table.sessions["c1"].doc.to_json(0)


async def test_kept_turns_are_not_validated_again(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    core = Core()
    await saved(core, turns(200))
    looked_at: list[int] = []
    from callstate_client.engine.sessions import many_turns

    check = many_turns.check_turns

    def counting(array: bytes, path: str) -> object:
        found = check(array, path)
        looked_at.append(len(found))
        return found

    monkeypatch.setattr(many_turns, "check_turns", counting)
    await saved(core, turns(202))
    assert looked_at == [2]


async def test_turns_added_one_by_one_are_a_prefix_of_the_save_that_follows() -> None:
    core = Core()
    await saved(core, [])
    for turn in turns(40):
        await core.call("session.add_turn", session_id="c1", turn=turn)
    record = await saved(core, turns(41))
    assert (HistoryMode(record.mode), record.count) == (HistoryMode.APPEND, 1)


async def test_a_deletion_that_the_store_has_is_not_written_again_after_a_crash() -> None:
    """Somebody else may have begun a session under that id meanwhile."""
    core = Core()
    await saved(core, turns(1))
    for write, _ in core.queue.take("host-1", 10, 1 << 20):
        core.queue.acked(write)
    await core.call("session.delete", session_id="c1")
    assert list(core.replayed().tombstones.pending) == ["c1"]
    for write, _ in core.queue.take("host-1", 10, 1 << 20):
        core.queue.acked(write)
    core.commit()
    assert not core.replayed().tombstones.pending
    assert not core.replayed().sessions


def flush(core: Core) -> None:
    """The store takes what is dirty."""
    for write, _ in core.queue.take(HOST, 10, 1 << 20):
        core.queue.acked(write)


@pytest.mark.parametrize("is_followed", [False, True])
async def test_a_deletion_that_the_store_took_while_the_disk_was_full_is_noted_later(
    tmp_path: Path, is_followed: bool
) -> None:
    """But never behind a new session of this id: a restart would end that."""
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    core = Core(journal=journal)
    await saved(core, turns(1))
    flush(core)
    await core.call("session.delete", session_id="c1")
    core.commit()
    disk.error, disk.once = OSError(errno.ENOSPC, "No space left on device"), 1
    flush(core)
    if is_followed:
        with pytest.raises(NotDurableError):
            await saved(core, turns(1))
        assert not core.table.sessions, "refused, although there is room again"
        await saved(core, turns(2))
    else:
        core.commit()
    assert disk.error is None
    core.commit()
    journal.close()
    table = SessionTable()
    open_journal(tmp_path, disk, table, start=False).close()
    assert [session.doc.turn_count for session in table.sessions.values()] == [2] * is_followed
    assert not table.tombstones.pending, "it would be written once more, over what has begun there since"
