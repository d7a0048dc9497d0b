"""Lines to replies: what a turn of the loop changed is down before anybody hears of it, or it has not happened."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.serving import connection
from support.core import BadDisk, Core, FakeClient, kept, open_journal
from support.stores import down

pytestmark = pytest.mark.usefixtures("unhurried")

ENOSPC = OSError(errno.ENOSPC, "No space left on device")


class Served:
    """A core with a journal on a disk that can go bad, and a client."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.disk = BadDisk()
        self.journal = open_journal(directory, self.disk, None, start=True)
        self.core = Core(journal=self.journal, **options)
        self.peer = FakeClient(self.core)

    def replayed(self) -> SessionTable:
        """What a start would find on disk now."""
        table = SessionTable()
        open_journal(self.directory, self.disk, table, start=False)
        return table

    async def ask(
        self, *requests: tuple[str, dict[str, Any]], peer: FakeClient | None = None
    ) -> list[dict[str, Any]]:
        """All of these in one turn of the loop; their replies."""
        client = peer or self.peer
        ids = client.send(*requests)
        while not client.answered(ids):
            await asyncio.sleep(0)
        return [client.replies[request_id] for request_id in ids]

    async def result(self, method: str, **params: Any) -> Any:
        [reply] = await self.ask((method, params))
        return reply["result"]


@pytest.fixture(autouse=True)
def _turns_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a line may take longer than a connection's share of a turn."""
    monkeypatch.setattr(connection, "SHARE_S", 60.0)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path)
    yield served
    served.journal.close()


def save(name: str, **beside: Any) -> tuple[str, dict[str, Any]]:
    return "session.save", {"session": {"id": name, "status": "active"}, **beside}


def turn(name: str, **beside: Any) -> tuple[str, dict[str, Any]]:
    return "session.add_turn", {"session_id": name, "turn": {"content": "x"}, **beside}


def kinds(replies: list[dict[str, Any]]) -> list[str]:
    return [reply["error"]["data"]["kind"] if "error" in reply else "ok" for reply in replies]


LOAD = ("session.load", {"session_id": "a"})


# -- the turn ----------------------------------------------------------------------------------------------------


async def test_a_turn_is_one_append_and_one_write_a_connection(served: Served) -> None:
    other = FakeClient(served.core)
    await served.ask(save("a"), save("b"))
    appends = served.disk.appends
    served.peer.writes.clear()
    ids = served.peer.send(turn("a"), turn("a"), LOAD), other.send(turn("b"), turn("a"))
    assert not served.peer.writes
    assert served.disk.appends == appends, "nothing has left, for nothing is down"
    while not (served.peer.answered(ids[0]) and other.answered(ids[1])):
        await asyncio.sleep(0)
    assert served.disk.appends == appends + 1
    assert len(served.peer.writes) == len(other.writes) == 1
    assert other.replies[ids[1][1]]["result"]["turn_count"] == 3


async def test_a_change_is_on_disk_before_it_is_acknowledged(served: Served) -> None:
    await served.ask(save("a"))
    found: list[int] = []
    write = served.peer.write

    def look_first(data: Any) -> None:
        found.append(served.replayed().sessions["a"].doc.turn_count)
        write(data)

    served.peer.write = look_first  # type: ignore[method-assign]
    await served.ask(turn("a"), turn("a"))
    await served.ask(turn("a"))
    assert found == [2, 3]


async def test_reading_appends_nothing(served: Served) -> None:
    await served.ask(save("a"))
    appends = served.disk.appends
    await served.ask(LOAD, ("session.heartbeat", {"session_id": "a"}), ("server.ping", {}), ("session.list", {}))
    assert served.disk.appends == appends


# -- a turn that is not durable ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ENOSPC, OSError(errno.EIO, "Input/output error"), ZeroDivisionError("ours")])
async def test_a_change_that_is_not_journaled_has_no_effect(served: Served, error: Exception) -> None:
    """Changes are refused and undone; what had read them is answered again; the rest goes on."""
    other = FakeClient(served.core)
    await served.ask(save("a"), save("b"))
    before = kept(served.core.session("a"))
    served.disk.error = error
    both = await asyncio.gather(
        served.ask(turn("a"), LOAD, ("session.end", {"session_id": "b"}), save("new"), ("server.ping", {})),
        served.ask(LOAD, ("session.list_active", {}), ("session.delete", {"session_id": "a"}), LOAD, peer=other),
    )
    assert kinds(both[0]) == ["not_durable", "ok", "not_durable", "not_durable", "ok"]
    assert kinds(both[1]) == ["ok", "ok", "not_durable", "ok"]
    for reply in (both[0][1], both[1][0], both[1][3]):
        assert reply["result"]["turn_count"] == 0, "what nobody kept is not shown either"
    assert sorted(both[1][1]["result"]["session_ids"]) == ["a", "b"]
    refusal = both[0][0]["error"]
    assert refusal["code"] == -32010
    assert refusal["data"]["retryable"] is True
    assert kept(served.core.session("a")) == before
    assert not served.core.tx.records
    served.disk.error = None
    assert kinds(await served.ask(turn("a"), save("new"))) == ["ok", "ok"]
    replayed = served.replayed()
    assert replayed.sessions.keys() == {"a", "b", "new"}
    assert replayed.sessions["a"].doc.turn_count == 1


@pytest.mark.parametrize("change", ["session.delete", "session.end", "session.record_interruption"])
async def test_an_undone_change_leaves_even_the_version(served: Served, change: str) -> None:
    await served.ask(save("a"))
    before = kept(served.core.session("a"))
    served.disk.error = ENOSPC
    assert kinds(await served.ask((change, {"session_id": "a"}))) == ["not_durable"]
    assert kept(served.core.session("a")) == before


async def test_a_request_refused_because_of_a_rolled_back_change_now_succeeds(served: Served) -> None:
    """Several change the same version; the first change is not durable, so the second one is no conflict. Its
    reply leaves when it is down, and not before."""
    [created] = await served.ask(save("a", if_version=0))
    on_disk: list[int] = []
    write = served.peer.write

    def look_first(data: Any) -> None:
        on_disk.append(served.replayed().sessions["a"].version)
        write(data)

    served.peer.write = look_first  # type: ignore[method-assign]
    served.disk.error, served.disk.once = ENOSPC, 1
    replies = await served.ask(*[save("a", if_version=created["result"]["version"])] * 3)
    assert kinds(replies) == ["not_durable", "ok", "conflict"]
    assert on_disk == [replies[1]["result"]["version"]]


async def test_of_several_creations_the_first_durable_one_counts(served: Served) -> None:
    served.disk.error, served.disk.once = ENOSPC, 1
    replies = await served.ask(*[save("a", if_version=0)] * 3)
    assert kinds(replies) == ["not_durable", "ok", "conflict"]
    assert served.replayed().sessions["a"].version == replies[1]["result"]["version"]


async def test_one_after_the_other_is_refused_while_the_disk_takes_nothing(served: Served) -> None:
    served.disk.error = ENOSPC
    replies = await served.ask(*[save("a", if_version=0)] * 5, LOAD)
    assert kinds(replies) == ["not_durable"] * 5 + ["not_found"]
    assert not served.core.table.sessions


async def test_a_client_that_left_in_the_same_turn_harms_no_other(served: Served) -> None:
    other = FakeClient(served.core)
    await served.ask(save("a"))
    served.disk.error = ENOSPC
    other.send(turn("a"), LOAD)
    ids = served.peer.send(turn("a"), LOAD)
    other.connection.connection_lost(None)
    while not served.peer.answered(ids):
        await asyncio.sleep(0)
    assert kinds([served.peer.replies[i] for i in ids]) == ["not_durable", "ok"]
    assert other.writes == []
    assert served.core.server.connections == {served.peer.connection}


async def test_a_notification_is_undone_silently(served: Served) -> None:
    await served.ask(save("a"))
    served.disk.error = ENOSPC
    line = b'{"jsonrpc":"2.0","method":"session.add_turn","params":{"session_id":"a","turn":{}}}\n'
    served.peer.connection.data_received(line)
    [reply] = await served.ask(LOAD)
    assert reply["result"]["turn_count"] == 0
    served.disk.error = None
    served.peer.connection.data_received(line)
    [reply] = await served.ask(LOAD)
    assert reply["result"]["turn_count"] == 1
    assert served.replayed().sessions["a"].doc.turn_count == 1, "also without a reply to wait for"


async def test_reads_of_cold_sessions_are_answered_while_the_disk_takes_nothing(served: Served) -> None:
    """A session that becomes hot by being read is told to the journal; where that fails it is read all the same."""
    await served.ask(save("a"))
    await served.core.writer.write_round()
    again = Core(journal=served.journal, backend=served.core.memory)
    served.core, served.peer = again, FakeClient(again)
    served.disk.error = ENOSPC
    replies = await served.ask(LOAD, ("session.heartbeat", {"session_id": "a"}), turn("a"))
    assert kinds(replies) == ["ok", "ok", "not_durable"]
    served.disk.error = None
    assert kinds(await served.ask(turn("a"))) == ["ok"]
    replayed = served.replayed().sessions["a"]
    assert (replayed.doc.turn_count, replayed.version) == (1, again.session("a").version)


async def test_a_bad_hour_is_one_line_in_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.disk.error = ENOSPC
    for _ in range(5):
        await served.ask(save("a"))
    assert caplog.text.count("the journal can't be written") == 1
    assert (await served.result("server.stats"))["journal"] == "failing"
    served.disk.error = None
    await served.ask(save("a"))
    stats = await served.result("server.stats")
    assert stats["journal"] == "ok"
    assert stats["groups_not_durable"] == 5


async def test_the_writers_barrier_holds_what_is_not_down(served: Served) -> None:
    served.disk.error = ENOSPC
    ids = served.peer.send(save("a"))
    served.core.table.tombstones.remember_miss("a", served.core.clock.mono())
    await served.core.writer.write_round()
    while not served.peer.answered(ids):
        await asyncio.sleep(0)
    assert kinds([served.peer.replies[ids[0]]]) == ["not_durable"]
    assert not served.core.memory.rows
    assert served.peer.answered(ids)


# -- waiting for the store ---------------------------------------------------------------------------------------


async def test_a_request_that_waits_for_the_store_delays_no_other(served: Served) -> None:
    served.core.memory.hold()
    waiting = served.peer.send(LOAD, turn("a"))
    assert kinds(await served.ask(("server.ping", {}))) == ["ok"]
    assert not served.peer.answered(waiting)
    assert served.core.server.waiting == 2
    served.core.memory.let_go()
    while not served.peer.answered(waiting):
        await asyncio.sleep(0)
    assert kinds([served.peer.replies[i] for i in waiting]) == ["not_found", "not_found"]
    assert served.core.server.waiting == 0


async def test_who_left_while_waiting_is_not_missed(served: Served) -> None:
    served.core.memory.hold()
    served.peer.send(LOAD, save("a"))
    served.peer.connection.connection_lost(None)
    served.core.memory.let_go()
    await served.core.server.answered(20.0)
    await served.core.read_through.close()
    assert "a" in served.core.table.sessions, "it was sent, so it is done"
    assert served.core.server.waiting == 0


async def test_many_that_wait_for_one_big_session_do_not_pile_up_its_replies(tmp_path: Path) -> None:
    served = Served(tmp_path, limits=LimitsConfig(pending_reply_bytes=4096))
    document = json.dumps({"id": "a", "status": "active", "x": "y" * 5000}).encode()
    served.core.memory.put("a", document, None)
    replies = await served.ask(LOAD, LOAD, LOAD)
    assert kinds(replies) == ["ok", "overloaded", "overloaded"]
    served.journal.close()


# -- the end -----------------------------------------------------------------------------------------------------


async def test_a_stop_answers_what_is_under_way_and_refuses_what_comes(served: Served) -> None:
    served.core.memory.hold()
    waiting = served.peer.send(save("a"))
    served.core.server.clients.stopping = True
    late = served.peer.send(save("b"), ("server.ping", {}))
    answering = asyncio.ensure_future(served.core.server.answered(20.0))
    await asyncio.sleep(0)
    assert not answering.done()
    served.core.memory.let_go()
    await answering
    assert kinds([served.peer.replies[i] for i in waiting + late]) == ["ok", "shutting_down", "shutting_down"]
    assert served.replayed().sessions.keys() == {"a"}
    newcomer = FakeClient(served.core)
    while not newcomer.closed:
        await asyncio.sleep(0)
    assert newcomer.replies[None]["error"]["data"]["kind"] == "shutting_down"  # type: ignore[index]


async def test_a_stop_does_not_wait_for_ever(served: Served) -> None:
    served.core.memory.hold()
    served.peer.send(LOAD)
    await served.core.server.answered(0.01)
    assert served.core.server.waiting == 1
    served.core.memory.let_go()
    await served.core.read_through.close()


async def test_one_connection_too_many_gets_an_error(tmp_path: Path) -> None:
    served = Served(tmp_path, limits=LimitsConfig(connections=2))
    second, third = FakeClient(served.core), FakeClient(served.core)
    while not third.closed:
        await asyncio.sleep(0)
    assert third.replies[None]["error"]["data"]["kind"] == "overloaded"  # type: ignore[index]
    third.connection.connection_lost(None)
    assert len(served.core.server.connections) == 2
    second.connection.connection_lost(None)
    assert not FakeClient(served.core).closed
    served.journal.close()


# -- lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "request_id", "kind"),
    [
        (b"nonsense", None, "parse_error"),
        (b'{"jsonrpc":"2.0","id":7,"method":"server.ping"', None, "parse_error"),
        (b'{"jsonrpc":"2.0","id":7,"method":"server.ping","params":{"x":"\xff"}}', None, "parse_error"),
        (
            b'{"jsonrpc":"2.0","id":7,"method":"session.load","params":{"session_id":"\\ud800"}}',
            None,
            "parse_error",
        ),
        (b"[]", None, "invalid_request"),
        (b"5", None, "invalid_request"),
        (b'[{"jsonrpc":"2.0","id":7,"method":"server.ping"}]', None, "invalid_request"),
        (b'{"id":7,"method":"server.ping"}', 7, "invalid_request"),
        (b'{"jsonrpc":"1.0","id":7,"method":"server.ping"}', 7, "invalid_request"),
        (b'{"jsonrpc":"2.0","id":{},"method":"server.ping"}', None, "invalid_request"),
        (b'{"jsonrpc":"2.0","id":"x","method":5}', "x", "invalid_request"),
        (b'{"jsonrpc":"2.0","id":7,"method":"server.reboot"}', 7, "method_not_found"),
        (b'{"jsonrpc":"2.0","id":7,"method":"server.ping","params":[]}', 7, "invalid_params"),
        (b'{"jsonrpc":"2.0","id":7,"method":"server.ping","params":{"x":1}}', 7, "invalid_params"),
        (b'{"jsonrpc":"2.0","id":7,"method":"session.load"}', 7, "invalid_params"),
        (b"[" * 100_000, None, "parse_error"),
        (b'{"jsonrpc":"2.0","id":7,"method":"session.load","params":' + b"[" * 100_000, None, "parse_error"),
    ],
    ids=lambda value: repr(value[:50]) if isinstance(value, bytes) else None,
)
async def test_a_bad_line_costs_that_line(served: Served, line: bytes, request_id: Any, kind: str) -> None:
    served.peer.connection.data_received(line + b"\n")
    assert kinds(await served.ask(("server.ping", {}))) == ["ok"]
    assert served.peer.replies[request_id]["error"]["data"]["kind"] == kind


@pytest.mark.parametrize("line", [b"", b" ", b"\t\r"])
async def test_blank_lines_are_ignored(served: Served, line: bytes) -> None:
    served.peer.connection.data_received(line + b"\n" + line + b"\n")
    await served.ask(("server.ping", {}))
    assert len(served.peer.replies) == 1


@pytest.mark.parametrize(
    ("request_id", "text"), [(0, "0"), (-1, "-1"), (1.5, "1.5"), ("é", '"\\u00e9"'), (None, "null")]
)
async def test_a_reply_has_the_id_of_its_request(served: Served, request_id: Any, text: str) -> None:
    served.peer.connection.data_received(f'{{"jsonrpc":"2.0","id":{text},"method":"server.ping"}}\n'.encode())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert served.peer.replies[request_id]["result"] == {}


async def test_notifications_get_no_reply_not_even_an_error(served: Served) -> None:
    for line in (
        b'{"jsonrpc":"2.0","method":"server.ping"}\n',
        b'{"jsonrpc":"2.0","method":"server.reboot"}\n',
        b'{"jsonrpc":"2.0","method":"session.load","params":{"x":1}}\n',
        b'{"jsonrpc":"2.0","method":"session.load","params":{"session_id":"nobody"}}\n',
    ):
        served.peer.connection.data_received(line)
    await served.ask(("server.ping", {}))
    assert len(served.peer.replies) == 1


async def test_the_events_of_a_notification_leave_although_no_reply_does(served: Served) -> None:
    """Of one that is accepted and changes nothing, and of one that is refused: nobody else may ask for a while."""
    subscriber = FakeClient(served.core)
    await served.ask(save("a"))
    await served.ask(("events.subscribe", {"types": ["fenced", "recovered"]}), peer=subscriber)
    served.core.clock.advance(31)
    while served.core.reaper.tick(served.core.clock.live()):
        pass
    for method, params in (("session.heartbeat", {}), ("session.record_interruption", {"epoch": 7})):
        named = {"session_id": "a"} | params
        line = json.dumps({"jsonrpc": "2.0", "method": method, "params": named}).encode()
        served.peer.connection.data_received(line + b"\n")
        for _ in range(3):
            await asyncio.sleep(0)
    assert [event["type"] for event in subscriber.events] == ["recovered", "fenced"]


async def test_a_fault_of_ours_is_an_error_and_a_traceback(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.core.host, "info", lambda: 1 // 0)
    replies = await served.ask(("server.info", {}), ("server.ping", {}))
    assert kinds(replies) == ["internal", "ok"]
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivisionError" not in json.dumps(replies), "the client's business it is not"


async def test_requests_and_errors_are_counted(served: Served) -> None:
    await served.ask(save("a"), LOAD, LOAD, ("session.load", {}))
    served.core.memory.failure = down
    await served.ask(("session.load", {"session_id": "b"}))
    stats = await served.result("server.stats")
    assert stats["requests"]["session.load"] >= 3
    assert stats["errors"] == {"invalid_params": 1, "store_unavailable": 1}
    assert stats["sessions"] == {"active": 1}
    assert stats["connections"] == 1
    assert stats["dirty"] == 1
