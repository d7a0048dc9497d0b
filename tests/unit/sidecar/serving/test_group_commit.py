"""When a group ends: with the turn of the loop, or, while one connection sends at a time, with its lines."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.events import EVENTS_A_TURN
from callstate_sidecar.serving import group_commit
from callstate_sidecar.serving.group_commit import ALONE_AFTER
from support.core import BadDisk, Core, FakeClient, open_journal

pytestmark = pytest.mark.usefixtures("unhurried")

MANY = 10 * EVENTS_A_TURN
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


async def test_a_group_that_has_become_long_is_written_before_the_turn_is_over(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "AT_ONCE_S", 60.0)
    monkeypatch.setattr(group_commit, "GROUP_BYTES", 2500)
    other = FakeClient(alone.core)
    long = ("session.add_turn", {"session_id": "a", "turn": {"content": "x" * 1000}})
    first = alone.peer.send(TURN)
    assert not other.answered(other.send(TURN)), "a group waits for others"
    await alone.answered(alone.peer, TURN)
    appends = alone.disk.appends
    ids, others = alone.peer.send(long, long), other.send(long)
    assert alone.disk.appends == appends + 1
    assert alone.peer.answered([*first, *ids])
    assert other.answered(others)
    after = alone.peer.send(TURN)
    assert not alone.peer.answered(after), "the next one begins with the next change"
    while not alone.peer.answered(after):
        await asyncio.sleep(0)
    assert alone.disk.appends == appends + 2


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


# -- subscribers that come back ------------------------------------------------------------------------------------


async def test_what_subscribers_have_missed_is_sent_in_many_turns_and_others_are_served(alone: Alone) -> None:
    core, events = alone.core, alone.core.events
    place = {"stream": events.stream, "seq": events.seq}
    for number in range(MANY):
        events.note("store.down", core.clock.wall_us(), error=str(number))
    await alone.answered(alone.peer, ("server.ping", {}))
    clients = [FakeClient(core) for _ in range(3)]
    for client in clients:
        client.send(("events.subscribe", {"since": place}))
    turns = most = 0
    while len(clients[-1].events) < MANY:
        before = sum(len(client.events) for client in clients)
        await asyncio.sleep(0)
        turns += 1
        most = max(most, sum(len(client.events) for client in clients) - before)
        if turns == 5:
            await alone.answered(alone.peer, ("session.save", {"session": {"id": "b"}}))
            assert len(clients[0].events) < MANY / 2
    assert most <= 2 * EVENTS_A_TURN, "and those that have just subscribed get as many more"
    for _ in range(10):
        await asyncio.sleep(0)
    for client in clients:
        assert [event.get("error", event.get("session_id")) for event in client.events] == [
            *map(str, range(MANY)), "b"
        ]  # fmt: skip
    assert not events.behind


async def test_a_subscriber_that_leaves_while_it_is_behind_is_forgotten(alone: Alone) -> None:
    core, events = alone.core, alone.core.events
    place = {"stream": events.stream, "seq": events.seq}
    for _ in range(MANY):
        events.note("store.down", core.clock.wall_us())
    await alone.answered(alone.peer, ("server.ping", {}))
    client = FakeClient(core)
    client.send(("events.subscribe", {"since": place}))
    while not client.events:
        await asyncio.sleep(0)
    client.connection.connection_lost(None)
    assert not events.behind
    await alone.answered(alone.peer, TURN)
    assert len(client.events) < MANY / 2


async def test_nobody_is_told_of_a_refusal_by_a_session_whose_creation_is_undone(alone: Alone) -> None:
    subscribed, _ = await alone.answered(alone.peer, ("events.subscribe", {}), TURN)
    assert "result" in subscribed
    alone.disk.error = OSError(errno.ENOSPC, "No space left on device")
    created, refused = await alone.answered(
        alone.peer,
        ("session.save", {"session": {"id": "b", "status": "active"}}),
        ("session.add_turn", {"session_id": "b", "turn": {"content": "x"}, "epoch": 7}),
    )
    alone.disk.error = None
    await alone.answered(alone.peer, TURN)
    assert created["error"]["data"]["kind"] == "not_durable"
    assert refused["error"]["data"]["kind"] == "not_found"
    assert not [event for event in alone.peer.events if event.get("session_id") == "b"]
