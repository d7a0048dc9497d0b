"""Replies of megabytes leave in the pieces that the session consists of, which nobody joins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.long_result import LONG_BYTES, LongResult, in_a_row
from callstate_client.engine.sessions.store_form import session_of
from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_sidecar.journal import SyncGate
from callstate_sidecar.serving.server import Server
from support.core import HOST, BadDisk, Core, FakeClient, open_journal

TURNS = [b'{"role":"user","content":"%d%b"}' % (number, b"x" * 900) for number in range(1000)]
META = StoredMeta(host=HOST, version=5, epoch=1, owner="w1", heartbeat_timeout_s=30.0)
LOAD = ("session.load", {"session_id": "a"})
PING: tuple[str, dict[str, Any]] = ("server.ping", {})


class Gathering(FakeClient):
    """Keeps the pieces of each write."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self.pieces: list[bytes] = []

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """The daemon's replies in pieces."""
        pieces = [*list_of_data]
        self.pieces += pieces
        self.write(b"".join(pieces))


def long_session(core: Core, recovery_data: bytes = b"{}") -> None:
    """Have a session of a megabyte in memory."""
    members = b'"id":"a","updated_at":"2026-01-01T00:00:00Z","status":"active","recovery_data":%b' % recovery_data
    document = b'{%b,"history":[%b]}' % (members, b",".join(TURNS))
    session = session_of("a", StoredSession(document, META), HOST)
    assert session is not None
    core.tx.admit(session)
    core.commit()


@pytest.mark.parametrize(
    ("request_", "turns"),
    [
        (LOAD, 1000),
        (("session.load", {"session_id": "a", "history": 500}), 500),
        (("session.claim", {"session_id": "a", "worker_id": "w2", "steal": True}), 1000),
    ],
)
async def test_the_chunks_of_the_history_are_not_copied(request_: tuple[str, dict[str, Any]], turns: int) -> None:
    core = Core()
    long_session(core)
    client = Gathering(core)
    ids = client.send(request_)
    while not client.answered(ids):
        await asyncio.sleep(0)
    copied = sum(len(piece) for piece in client.pieces if not any(piece is c for c in core.session("a").doc.chunks))
    assert copied < 128 * 1024, "what is around them, and a part of one"
    result = client.replies[ids[0]]["result"]
    assert [json.loads(turn) for turn in TURNS[1000 - turns :]] == result["session"]["history"]
    assert (result["history_from"], result["turn_count"]) == (1000 - turns, 1000)


async def test_a_long_head_is_not_copied_either() -> None:
    core = Core()
    long_session(core, b'{"text":"%b"}' % (b"y" * LONG_BYTES))
    client = Gathering(core)
    ids = client.send(("session.load", {"session_id": "a", "history": "none"}))
    while not client.answered(ids):
        await asyncio.sleep(0)
    assert any(piece is core.session("a").doc.fields for piece in client.pieces)
    result = client.replies[ids[0]]["result"]
    assert "history" not in result["session"]
    assert len(result["session"]["recovery_data"]["text"]) == LONG_BYTES


@pytest.mark.usefixtures("unhurried")
async def test_replies_of_a_turn_keep_their_order_around_a_long_one() -> None:
    core = Core()
    long_session(core)
    client = Gathering(core)
    ids = client.send(PING, LOAD, PING, LOAD, PING)
    while not client.answered(ids):
        await asyncio.sleep(0)
    written = b"".join(client.writes).splitlines()
    assert [json.loads(line)["id"] for line in written] == ids
    assert client.connection.out_bytes == 0
    assert len(client.writes) == 1


async def test_a_reply_is_replaced_when_its_group_is_undone(tmp_path: Path) -> None:
    disk = BadDisk()
    core = Core(journal=open_journal(tmp_path, disk, None, start=True))
    long_session(core)
    disk.error = OSError(28, "no space")
    client = Gathering(core)
    ids = client.send(
        PING, ("session.claim", {"session_id": "a", "worker_id": "w2", "steal": True}), LOAD, PING
    )  # fmt: skip
    while not client.answered(ids):
        await asyncio.sleep(0)
    assert client.replies[ids[1]]["error"]["data"]["kind"] == "not_durable"
    assert client.replies[ids[2]]["result"]["owner"] == "w1"
    assert client.connection.out_bytes == 0


async def test_a_sync_holds_long_replies_like_others(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, BadDisk(), None, start=True)
    core = Core(journal=journal)
    long_session(core)
    synced = asyncio.Event()

    async def sync() -> None:
        await synced.wait()
        journal.synced = journal.sequence

    gate = SyncGate(lambda: journal.unsynced, sync, pytest.fail)
    core.serve(Server(core.engine, journal, core.metrics, core.config.limits, gate), journal)
    client = Gathering(core)
    turn = {"role": "user", "content": "hello"}
    ids = client.send(("session.add_turn", {"session_id": "a", "turn": turn}), LOAD)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert client.writes == []
    synced.set()
    while not client.answered(ids):
        await asyncio.sleep(0)
    assert client.replies[ids[1]]["result"]["turn_count"] == 1001
    await gate.close()
    journal.close()


def test_short_results_are_joined() -> None:
    assert in_a_row([b"a", b"b"]) == b"ab"
    long = in_a_row([b"a", LongResult([b"b", b"c"]), b"d"])
    assert isinstance(long, LongResult)
    assert (long.joined(), len(long)) == (b"abcd", 4)
