"""A line that arrives alone takes a shorter way to its reply, and waits where any other line would."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from callstate_client.engine.user import NOBODY
from callstate_client.engine.verbs.heartbeat import IDS_A_STEP
from callstate_sidecar.config.schema import KIB, LimitsConfig
from callstate_sidecar.journal import Files
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.group_commit import ALONE_AFTER
from callstate_sidecar.serving.rates import RequestRates
from support.core import TIME, Core, FakeClient, open_journal

pytestmark = pytest.mark.usefixtures("unhurried")

MOST_CALLS = {"session.heartbeat": 27, "session.add_turn": 69, "session.save": 105, "session.update": 120}
"""A few more than each takes."""

SAID = {"role": "user", "content": "hello", "timestamp": TIME, "duration_ms": 900}

PING: tuple[str, dict[str, Any]] = ("server.ping", {})


async def sole(core: Core) -> FakeClient:
    """The client of a core that has been the only one to send for a while."""
    peer = FakeClient(core)
    for _ in range(ALONE_AFTER + 1):
        await answered(peer, peer.send(PING))
    return peer


async def answered(peer: FakeClient, ids: list[int]) -> None:
    """Return once these have their replies."""
    while not peer.answered(ids):
        await asyncio.sleep(0)


async def test_it_is_answered_without_being_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = await sole(Core())
    with monkeypatch.context() as patched:
        patched.setattr(ClientConnection, "serve", lambda _: pytest.fail("queued"))
        assert peer.answered(peer.send(PING))
    peer.connection.data_received(peer.request(*PING)[1] + peer.request(*PING)[1])
    assert peer.answered([peer.ids - 1, peer.ids]), "two lines are queued, and end their group as well"


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session.heartbeat", {"session_id": "a"}),
        ("session.add_turn", {"session_id": "a", "turn": SAID, "op": "op-1"}),
        ("session.add_turn", {"session_id": "a", "turns": [SAID], "op": "op-1"}),
        ("session.save", {"session": {"id": "a", "status": "active", "updated_at": TIME}, "op": "op-1"}),
        ("session.update", {"session_id": "a", "set": {"recovery_data": {"node": "menu"}}, "op": "op-1"}),
    ],
)
async def test_it_takes_few_calls(tmp_path: Path, method: str, params: dict[str, Any]) -> None:
    """From its line to the reply, in the whole daemon: a lone request shares them with nobody."""
    journal = open_journal(tmp_path, Files(), None, start=True)
    core = Core(journal=journal)
    await core.save("a", session={"recovery_data": {"node": "start"}})
    peer = await sole(core)
    ours: list[list[str]] = []
    for number in range(3):  # more than one: if the machine pauses, that is noted by calls of its own
        line = peer.request(method, params | {"op": f"op-{number}"} if "op" in params else params)[1]
        calls: list[str] = []

        def note(frame: FrameType, event: str, _: Any, calls: list[str] = calls) -> None:
            if event == "call":
                calls.append(frame.f_code.co_qualname)

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            peer.connection.data_received(line)
        finally:
            sys.setprofile(before)
        ours.append(calls[: calls.index("FakeClient.write")])
        assert "result" in peer.replies[peer.ids]
    fewest = min(ours, key=len)
    assert len(fewest) <= MOST_CALLS[method], " ".join(fewest)
    journal.close()


async def test_it_may_come_in_pieces_and_the_next_is_alone_again() -> None:
    peer = await sole(Core())
    for _ in range(2):
        request_id, line = peer.request(*PING)
        peer.connection.data_received(line[:9])
        assert not peer.answered([request_id])
        peer.connection.data_received(line[9:])
        assert peer.answered([request_id])
        assert peer.answered(peer.send(PING))


async def test_it_is_dropped_if_it_is_too_long() -> None:
    core = Core(limits=LimitsConfig(line_bytes=4 * KIB))
    peer = await sole(core)
    peer.connection.data_received(b" " * (4 * KIB - 1) + b"\n")
    assert not core.metrics.errors, "as long as it may be, and blank"
    peer.connection.data_received(b" " * (4 * KIB) + b"\n")
    await asyncio.sleep(0)
    assert b"too_large" in peer.writes[-1]


async def test_it_waits_behind_a_request_that_takes_several_turns() -> None:
    core = Core()
    peer = await sole(core)
    [slow] = peer.send(("session.heartbeat", {"session_ids": [f"s{n}" for n in range(3 * IDS_A_STEP)]}))
    [behind] = peer.send(PING)
    assert not peer.answered([behind])
    await answered(peer, [slow, behind])
    assert [*peer.replies][-2:] == [slow, behind]


async def test_it_waits_while_the_client_does_not_read() -> None:
    peer = await sole(Core())
    peer.connection.pause_writing()
    ids = peer.send(PING)
    assert not peer.answered(ids)
    assert not peer.reading
    peer.connection.resume_writing()
    ids += peer.send(PING)
    await answered(peer, ids)
    assert [*peer.replies][-2:] == ids, "nothing overtakes it"
    assert peer.reading


async def test_it_waits_while_too_much_is_unread() -> None:
    peer = await sole(Core(limits=LimitsConfig(pending_reply_bytes=64 * KIB)))
    peer.connection.out_bytes += 65 * KIB
    ids = peer.send(PING)
    assert not peer.answered(ids)
    peer.connection.out_bytes -= 65 * KIB
    peer.connection.serve_soon()
    await answered(peer, ids)


async def test_it_waits_after_an_absence_of_the_daemon() -> None:
    core = Core()
    peer = await sole(core)
    away = True
    core.server.held = lambda _: away
    ids = peer.send(PING)
    assert not peer.answered(ids)
    away = False
    peer.connection.serve_soon()
    await answered(peer, ids)
    assert peer.answered(peer.send(PING))


async def test_it_counts_against_the_rate_of_its_user() -> None:
    core = Core()
    rates = core.server.rates = RequestRates(ALONE_AFTER + 2, lambda: 0.0)
    peer = await sole(core)
    assert peer.answered(peer.send(PING))
    peer.send(PING)
    assert rates._waiting[NOBODY.uid] == 1


async def test_it_is_not_served_once_the_connection_is_closing() -> None:
    peer = await sole(Core())
    peer.connection.close()
    assert not peer.answered(peer.send(PING))


async def test_it_waits_for_the_next_turn_if_this_one_has_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core()
    peer = await sole(core)
    with monkeypatch.context() as patched:
        patched.setattr(core.server.queue, "has_time", lambda: False)
        ids = peer.send(PING)
        assert not peer.answered(ids)
    ids += peer.send(PING)
    await answered(peer, ids)
    assert [*peer.replies][-2:] == ids, "nothing overtakes it"
