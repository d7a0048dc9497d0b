"""When a group ends: with the turn of the loop, or, while one connection sends at a time, with its lines."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callstate_sidecar.serving import group_commit
from callstate_sidecar.serving.group_commit import ALONE_AFTER
from support.core import BadDisk, Core, FakeClient, open_journal

pytestmark = pytest.mark.usefixtures("unhurried")

TURN = ("session.add_turn", {"session_id": "a", "turn": {"content": "x"}})


class Alone:
    """A core whose client has been the only one to send for a while."""

    def __init__(self, directory: Path) -> None:
        self.disk = BadDisk()
        self.journal = open_journal(directory, self.disk, None, start=True)
        self.core = Core(journal=self.journal)
        self.peer = FakeClient(self.core)

    async def answered(self, peer: FakeClient, *requests: tuple[str, dict[str, Any]]) -> list[Any]:
        """The replies."""
        ids = peer.send(*requests)
        while not peer.answered(ids):
            await asyncio.sleep(0)
        return [peer.replies[request_id] for request_id in ids]


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Alone]:
    alone = Alone(tmp_path)
    await alone.answered(alone.peer, ("session.save", {"session": {"id": "a", "status": "active"}}))
    for _ in range(ALONE_AFTER):
        await alone.answered(alone.peer, TURN)
    yield alone
    alone.journal.close()


async def test_one_that_sends_alone_is_answered_once_its_lines_are_served(alone: Alone) -> None:
    appends, writes = alone.disk.appends, len(alone.peer.writes)
    ids = alone.peer.send(TURN, TURN)
    assert alone.peer.answered(ids), "without another turn of the loop"
    assert alone.disk.appends == appends + 1
    assert len(alone.peer.writes) == writes + 1


async def test_its_change_is_written_before_it_is_answered(alone: Alone) -> None:
    written: list[int] = []
    write = alone.peer.write

    def look_first(data: Any) -> None:
        written.append(alone.journal.sequence)
        write(data)

    alone.peer.write = look_first  # type: ignore[method-assign]
    before = alone.journal.sequence
    alone.peer.send(TURN)
    assert written == [before + 1]


async def test_its_change_is_refused_if_it_cannot_be_written(alone: Alone) -> None:
    alone.disk.error = OSError(errno.ENOSPC, "No space left on device")
    [failed] = alone.peer.send(TURN)
    assert alone.peer.replies[failed]["error"]["data"]["kind"] == "not_durable"
    alone.disk.error = None
    [again] = alone.peer.send(TURN)
    assert alone.peer.replies[again]["result"]["turn_count"] == ALONE_AFTER + 1


async def test_two_at_once_share_the_groups_that_follow(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "AT_ONCE_S", 60.0)
    other = FakeClient(alone.core)
    alone.peer.send(TURN)
    assert not other.answered(other.send(TURN)), "others may be ready, too"
    appends = alone.disk.appends
    ids, others = alone.peer.send(TURN), other.send(TURN)
    assert not alone.peer.answered(ids)
    while not (alone.peer.answered(ids) and other.answered(others)):
        await asyncio.sleep(0)
    assert alone.disk.appends == appends + 1


async def test_two_that_take_turns_do_not_wait_for_each_other(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "AT_ONCE_S", -1.0)
    other = FakeClient(alone.core)
    for _ in range(3):
        assert alone.peer.answered(alone.peer.send(TURN))
        assert other.answered(other.send(TURN))


async def test_a_fault_in_serving_holds_no_reply_back(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = alone.core.server.handle

    def faulty(connection: Any, line: bytes | None) -> None:
        handle(connection, line)
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(alone.core.server, "handle", faulty)
        with pytest.raises(ZeroDivisionError):
            alone.peer.send(TURN)
    assert alone.peer.answered([alone.peer.ids])
    assert alone.peer.answered(alone.peer.send(TURN))


async def test_a_connection_that_closes_is_not_remembered(alone: Alone) -> None:
    alone.peer.send(TURN)
    alone.peer.connection.connection_lost(None)
    assert alone.core.server.group._last is None
