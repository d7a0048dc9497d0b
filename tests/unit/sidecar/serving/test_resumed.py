"""Requests that have waited for the store: many at once are served in many turns of the loop, each in its order."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, cast

import pytest

from callstate_client.engine.sessions.stored import StoredMeta, StoredSession
from callstate_client.engine.user import User
from callstate_sidecar import read_through
from callstate_sidecar.hosts.takeover import Takeovers
from callstate_sidecar.read_through import READ_TOGETHER, READERS
from callstate_sidecar.serving import connection, resumed, server
from callstate_sidecar.serving.fair_queue import TURN_S
from callstate_sidecar.slices import Slices
from callstate_sidecar.stores.hosts import HostRegistry, Take, Taken, TakeOutcome
from support.core import HOST, Core, FakeClient

US, THEM = User(1000, 1000), User(2000, 2000)
TURN = {"role": "user", "content": "hello"}
LOAD = ("session.load", {"session_id": "a"})
PING: tuple[str, dict[str, Any]] = ("server.ping", {})
ENDED = b'{"id":"a","status":"ended","created_at":"2025-01-01T00:00:00Z","history":[{"role":"user"}]}'


@pytest.fixture
async def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    """A core in which each request takes the time of a turn of the loop, and time alone decides when it runs."""
    clock = itertools.count(step=TURN_S)
    for module in (server, connection, resumed):
        monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    core = Core()
    del core.server.queue.has_time
    core.memory.hold()
    return core


def crowd(core: Core, count: int, *requests: tuple[str, dict[str, Any]], user: User = THEM) -> list[FakeClient]:
    """Clients with these requests."""
    clients = [FakeClient(core, user=user) for _ in range(count)]
    for client in clients:
        client.send(*requests)
    return clients


async def all_wait(core: Core, count: int) -> None:
    """Until so many requests wait for the store."""
    for _ in range(10 * count):
        if core.server.waiting == count:
            return
        await asyncio.sleep(0)
    raise AssertionError(core.server.waiting)


async def settled(core: Core) -> None:
    """Until no request waits."""
    for _ in range(10_000):
        if not core.server.waiting:
            return
        await asyncio.sleep(0)
    raise AssertionError(core.server.waiting)


def kind(client: FakeClient, request_id: int) -> str:
    """The kind of the error that answers a request; `ok`: none does."""
    reply = client.replies[request_id]
    return str(reply["error"]["data"]["kind"]) if "error" in reply else "ok"


# -- shares of the time --------------------------------------------------------------------------------------------


async def test_many_that_wait_for_one_read_are_served_in_as_many_turns(core: Core) -> None:
    clients = crowd(core, 20, *[LOAD] * 3)
    await all_wait(core, 60)
    core.memory.let_go()
    served = [0]
    while core.server.waiting:
        await asyncio.sleep(0)
        served.append(60 - core.server.waiting)
    assert max(after - before for before, after in itertools.pairwise(served)) <= 2, "as it becomes known, and one"
    assert {kind(client, request_id) for client in clients for request_id in client.replies} == {"not_found"}
    assert core.memory.reads == ["a"]


@pytest.mark.parametrize("request_", [LOAD, PING], ids=["loads of a missing session", "pings"])
async def test_a_flood_of_them_gets_its_share_and_no_more(core: Core, request_: tuple[str, dict[str, Any]]) -> None:
    """Another user's client is served as soon as among those that ask for what is in memory."""
    core.clock.stalled_s = 0.0
    crowd(core, 20, *[request_] * 50)
    victim = FakeClient(core, user=US)
    for turn in range(200):
        if turn == 100:
            core.memory.let_go()
        if turn % 10 == 0:
            sent = victim.send(PING)
            turns = 0
            while not victim.answered(sent):
                await asyncio.sleep(0)
                turns += 1
            assert turns <= 3
        else:
            await asyncio.sleep(0)


async def test_new_sessions_that_one_read_looks_for_are_created_in_many_turns(core: Core) -> None:
    clients = [FakeClient(core) for _ in range(READ_TOGETHER)]
    for number, client in enumerate(clients):
        client.send(("session.save", {"session": {"id": f"s{number}"}}))
    await all_wait(core, READ_TOGETHER)
    core.memory.let_go()
    created = [0]
    while core.server.waiting:
        await asyncio.sleep(0)
        created.append(len(core.table.sessions))
    assert max(after - before for before, after in itertools.pairwise(created)) <= 2
    assert len(core.memory.joint_reads) <= 2
    assert len(core.table.sessions) == READ_TOGETHER


async def test_a_reader_gives_way_between_the_sessions_that_it_has_read(core: Core) -> None:
    """Those with nobody to share the time with, as when a heartbeat names them, too."""
    core.read_through._slices = lambda slice_s: Slices(0.0)
    names = [f"s{number}" for number in range(READ_TOGETHER)]
    known: list[str] = []
    for name in names:
        core.read_through.when_known(name, lambda name=name: known.append(name))
    core.memory.let_go()
    before = 0
    while len(known) < READ_TOGETHER:
        await asyncio.sleep(0)
        assert len(known) - before <= 1
        before = len(known)
    assert known == names


async def test_readers_share_a_slice_of_the_turn(core: Core) -> None:
    lengths: list[float] = []

    def new(slice_s: float) -> Slices:
        lengths.append(slice_s)
        return Slices(slice_s)

    core.read_through._slices = new
    for number in range(READERS * READ_TOGETHER):
        core.read_through.when_known(f"s{number}", lambda: None)
        await asyncio.sleep(0)
    core.memory.let_go()
    await core.read_through.close()
    assert lengths[0] == pytest.approx(read_through.SLICE_S / READERS)


async def test_no_more_is_read_while_much_waits_to_be_shown(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that do not become hot are kept for the requests that waited for them."""
    monkeypatch.setattr(read_through, "SHOWN_BYTES", 10_000)
    monkeypatch.setattr(read_through, "READ_TOGETHER", 10)
    names = [f"s{number}" for number in range(300)]
    for name in names:
        core.memory.put(name, ENDED.replace(b'"a"', b'"%b"' % name.encode()), StoredMeta(host=HOST, version=5))
    client = FakeClient(core)
    ids = client.send(*[("session.load", {"session_id": name}) for name in names])
    await all_wait(core, len(names))
    core.memory.let_go()
    most = 0
    while not client.answered(ids):
        await asyncio.sleep(0)
        most = max(most, core.table.readings.size_bytes)
    assert {kind(client, request_id) for request_id in ids} == {"ok"}
    assert most < 10_000 + READERS * 10 * 800
    assert core.table.readings.size_bytes == 0


async def test_after_a_stall_of_the_store_each_user_has_something_read_first(core: Core) -> None:
    """Not all that others have asked for meanwhile."""
    wanted = 2 * READERS * READ_TOGETHER
    flooding = [FakeClient(core, user=THEM) for _ in range(2)]
    for half, client in enumerate(flooding):
        client.send(*[("session.load", {"session_id": f"{half}-{number}"}) for number in range(wanted // 2)])
    await all_wait(core, wanted)
    victim = FakeClient(core, user=US)
    sent = victim.send(("session.save", {"session": {"id": "a"}}))
    await all_wait(core, wanted + 1)
    core.memory.let_go()
    while not victim.answered(sent):
        await asyncio.sleep(0)
    read = [session_id for some in core.memory.joint_reads for session_id in some]
    assert read.index("a") <= READERS * READ_TOGETHER, "as soon as one of those that are under way has ended"
    await settled(core)


# -- order ---------------------------------------------------------------------------------------------------------


async def test_requests_of_one_connection_on_one_session_keep_their_order(core: Core) -> None:
    """Those that have waited, those that come while they run, and a heartbeat of many among them."""
    crowd(core, 5, *[LOAD] * 5)
    client = FakeClient(core, user=THEM)
    first = client.send(
        ("session.save", {"session": {"id": "a"}, "if_version": 0}),
        ("session.add_turn", {"session_id": "a", "turn": TURN}),
        ("session.heartbeat", {"session_ids": ["b", "a"]}),
        ("session.add_turn", {"session_id": "a", "turn": TURN}),
    )
    await all_wait(core, 5 * 5 + 4)
    core.memory.let_go()
    while client.connection.resumed is None:
        await asyncio.sleep(0)
    last = client.send(
        ("session.add_turn", {"session_id": "a", "turn": TURN}), ("session.end", {"session_id": "a"})
    )
    await settled(core)
    while not client.answered(last):
        await asyncio.sleep(0)
    assert [kind(client, request_id) for request_id in first + last] == ["ok"] * 6
    assert [client.replies[i]["result"]["turn_count"] for i in (first[1], first[3], last[0])] == [1, 2, 3]
    assert client.replies[first[2]]["result"]["missing"] == ["b"]
    assert [request_id for request_id in client.replies if request_id != first[2]] == [*first[:2], first[3], *last]


async def test_lines_wait_while_a_read_has_yet_to_be_told(core: Core) -> None:
    """So many waited for it that to tell them takes several turns."""
    core.read_through._slices = lambda slice_s: Slices(0.0)
    others = crowd(core, 30, LOAD)
    client = FakeClient(core, user=THEM)
    created = client.send(("session.save", {"session": {"id": "a"}}))
    await all_wait(core, 31)
    core.memory.let_go()
    while not core.table.readings.untold:
        await asyncio.sleep(0)
    for other in others:
        other.send(PING)
    ended = client.send(("session.end", {"session_id": "a"}), PING)
    spent_s = core.server.queue._spent_s
    others[-1].connection.serve()
    assert core.server.queue._spent_s > spent_s, "a turn in which some are asked again and again has an end"
    turns = 0
    while not client.answered(created + ended):
        assert client.answered(created) or not client.replies, "what was sent last is not answered first"
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    assert [kind(client, request_id) for request_id in created + ended] == ["ok"] * 3
    assert client.reading


async def test_work_in_steps_waits_for_what_was_sent_before_it(core: Core) -> None:
    client = FakeClient(core, user=THEM)
    crowd(core, 5, *[LOAD] * 5)
    created = client.send(("session.save", {"session": {"id": "a"}}))
    await all_wait(core, 26)
    beats = client.send(("session.heartbeat", {"session_ids": [*(f"s{number}" for number in range(150)), "a"]}))
    core.memory.let_go()
    while not client.answered(created + beats):
        await asyncio.sleep(0)
    assert "a" not in client.replies[beats[0]]["result"]["missing"]


LONG_SAVE: tuple[str, dict[str, Any]] = (
    "session.save",
    {"session": {"id": "a", "recovery_data": {"text": "x" * 300_000}}},
)
"""Checked in steps, once it is known whether the session exists."""


async def test_what_was_sent_behind_one_that_takes_steps_waits_for_it(core: Core) -> None:
    client = FakeClient(core, user=THEM)
    sent = client.send(LONG_SAVE, LOAD, ("session.add_turn", {"session_id": "a", "turn": TURN}), LOAD)
    await all_wait(core, 4)
    core.memory.let_go()
    while not client.answered(sent):
        await asyncio.sleep(0)
    assert [*client.replies] == sent
    assert [kind(client, request_id) for request_id in sent] == ["ok"] * 4
    assert not client.connection.is_behind


async def test_what_was_sent_behind_one_waits_for_it_if_it_has_to_ask_again_too(core: Core) -> None:
    """Another client may have created the session meanwhile, and it may have left memory since."""
    client = FakeClient(core, user=THEM)
    sent = client.send(LONG_SAVE, LOAD, LOAD)
    await all_wait(core, 3)
    core.memory.let_go()
    while not client.connection.ahead:
        await asyncio.sleep(0)
    reads = len(core.memory.reads)
    core.table.readings.outdate("a")
    core.table.tombstones.forget_misses()
    while not client.answered(sent):
        await asyncio.sleep(0)
    assert len(core.memory.reads) > reads
    assert [*client.replies] == sent
    assert [kind(client, request_id) for request_id in sent] == ["ok"] * 3


async def test_a_line_in_steps_waits_for_those_in_steps_that_were_sent_before_it(core: Core) -> None:
    client = FakeClient(core, user=THEM)
    created = client.send(LONG_SAVE)
    await all_wait(core, 1)
    beats = client.send(("session.heartbeat", {"session_ids": [*(f"s{number}" for number in range(150)), "a"]}))
    core.memory.let_go()
    while not client.answered(created + beats):
        await asyncio.sleep(0)
    assert "a" not in client.replies[beats[0]]["result"]["missing"]


# -- what they are shown -------------------------------------------------------------------------------------------


async def test_a_miss_is_kept_for_those_that_waited_for_it(core: Core) -> None:
    """It is remembered for a second only, and a deleted predecessor's version and epoch with it."""
    core.memory.put("a", None, StoredMeta(host="other", version=7, epoch=3))
    others = crowd(core, 3, LOAD)
    client = FakeClient(core, user=THEM)
    created = client.send(("session.save", {"session": {"id": "a"}}))
    await all_wait(core, 4)
    core.memory.let_go()
    while core.server.waiting:
        core.clock.advance(2.0)
        await asyncio.sleep(0)
    assert [kind(other, 1) for other in others] == ["not_found"] * 3
    assert client.replies[created[0]]["result"]["version"] > 7
    assert client.replies[created[0]]["result"]["epoch"] > 3
    assert core.memory.reads == ["a"]


async def test_a_miss_is_kept_for_nobody_else(core: Core) -> None:
    crowd(core, 5, LOAD)
    await all_wait(core, 5)
    core.memory.let_go()
    while core.server.waiting == 5:
        await asyncio.sleep(0)
    core.clock.advance(2.0)
    while core.server.waiting == 4:
        await asyncio.sleep(0)
    other = FakeClient(core, user=US)
    core.memory.put("a", ENDED, StoredMeta(host=HOST, version=5))
    sent = other.send(LOAD)
    while not other.answered(sent):
        await asyncio.sleep(0)
    assert kind(other, sent[0]) == "ok"
    await settled(core)


async def test_what_one_of_them_has_changed_is_not_shown_to_the_others_as_it_was(core: Core) -> None:
    """Also when it has left memory: a session that was deleted in the store meanwhile is missing."""
    core.memory.put("a", ENDED, StoredMeta(host=HOST, version=5))
    first = crowd(core, 3, LOAD)
    [deletes] = crowd(core, 1, ("session.delete", {"session_id": "a"}))
    last = crowd(core, 20, LOAD)
    await all_wait(core, 24)
    core.memory.let_go()
    while not deletes.replies:
        await asyncio.sleep(0)
    assert core.server.waiting > 10
    await core.writer.write_round()
    assert not core.table.tombstones.pending
    await settled(core)
    while not all(client.replies for client in last):
        await asyncio.sleep(0)
    kinds = [kind(client, 1) for client in last]
    assert "not_found" in kinds
    assert kinds == sorted(kinds, reverse=True), "none has it any more after the first that has not"
    assert kind(deletes, 1) == "ok"
    assert {kind(client, 1) for client in first} <= {"ok", "not_found"}


class Giving:
    """A registry that gives every session that is asked for."""

    async def take(self, takes: Sequence[Take]) -> list[Taken]:
        stored = StoredSession(b'{"id":"a","status":"active"}', StoredMeta(host=HOST, version=6, epoch=1 << 20))
        return [Taken(TakeOutcome.TAKEN, stored) for _ in takes]


async def test_requests_behind_a_claim_of_another_hosts_session_wait_for_it(core: Core) -> None:
    """Though they had been told of the same read."""
    core.memory.put("a", b'{"id":"a","status":"active"}', StoredMeta(host="other", version=5, state="orphan"))
    takeovers = Takeovers(cast(HostRegistry, Giving()), core.read_through, lambda: None, HOST, set(), core.metrics)
    core.host._takeovers, core.host.is_shared = takeovers, True
    crowd(core, 3, *[LOAD] * 3)
    client = FakeClient(core, user=THEM)
    sent = client.send(
        ("session.claim", {"session_id": "a", "worker_id": "w1", "steal": True}),
        ("session.load", {"session_id": "b"}),
        ("session.add_turn", {"session_id": "a", "turn": TURN}),
        ("session.end", {"session_id": "a"}),
    )
    await all_wait(core, 13)
    core.memory.let_go()
    while not client.answered(sent):
        await asyncio.sleep(0)
    assert [kind(client, request_id) for request_id in sent] == ["ok", "not_found", "ok", "ok"]
    await settled(core)


async def test_a_client_that_has_left_has_its_requests_run(core: Core) -> None:
    crowd(core, 5, LOAD)
    client = FakeClient(core, user=THEM)
    client.send(("session.save", {"session": {"id": "a"}}), ("session.end", {"session_id": "a"}))
    await all_wait(core, 7)
    core.memory.let_go()
    client.connection.connection_lost(None)
    await settled(core)
    assert core.session("a").ended
    assert core.table.readings.size_bytes == 0
