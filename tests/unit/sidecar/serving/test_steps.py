"""Requests with much to do: they are worked on in steps, between which other clients are served."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.validation.values import LONG_BYTES
from callstate_client.engine.verbs.heartbeat import IDS_A_STEP
from callstate_client.engine.verbs.listing import LOOKS_A_PAGE, LOOKS_A_STEP
from callstate_client.protocol.bounds import MAX_HEARTBEAT_IDS
from callstate_sidecar import read_through, slices
from callstate_sidecar.serving import connection, server
from callstate_sidecar.serving.fair_queue import TURN_S
from support.core import HOST, TIME, BadDisk, Core, FakeClient, open_journal
from support.stores import down

MANY = 10 * IDS_A_STEP


@pytest.fixture
async def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Core]:
    """A core that does one step of a request in each turn of the loop."""
    monkeypatch.setattr(server, "SHARE_S", 0.0)
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    core = Core(journal=journal)
    core.disk = disk  # type: ignore[attr-defined]
    yield core
    journal.close()


async def turns_until(client: FakeClient, ids: list[int]) -> int:
    """How many turns of the loop it takes until these are answered."""
    turns = 0
    while not client.answered(ids):
        turns += 1
        assert turns < 100_000
        await asyncio.sleep(0)
    return turns


async def created(core: Core, number: int) -> list[str]:
    names = [f"s{i}" for i in range(number)]
    for name in names:
        core.tx.create(a_session(core, name))
    core.tx.commit()
    return names


def a_session(core: Core, name: str) -> Session:
    head = read_head(b'{"id":"%b","provider":"twilio"}' % name.encode(), "$", lambda _: "2026-01-01T00:00:00Z")
    session = Session(name, Document(head, core.clock.wall_us()))
    session.next_version(core.clock.wall_us())
    core.liveness.watch(session, core.clock.live())
    return session


async def test_others_are_served_between_the_steps(core: Core) -> None:
    names = await created(core, MANY)
    busy, other = FakeClient(core), FakeClient(core)
    long = busy.send(("session.heartbeat", {"session_ids": names}))
    short = other.send(("server.ping", {}))
    assert await turns_until(other, short) <= 2
    assert not busy.answered(long)
    assert await turns_until(busy, long) >= MANY // IDS_A_STEP - 3
    assert busy.replies[long[0]]["result"] == {"missing": [], "ended": [], "fenced": []}


async def test_steps_of_many_clients_share_the_time_of_a_turn(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=TURN_S)  # each step takes the time of a whole turn
    for module in (server, connection):
        monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    del core.server.queue.has_time
    names = await created(core, MANY)
    shares: list[object] = []
    advance = core.server._advance
    monkeypatch.setattr(core.server, "_advance", lambda work: (shares.append(work), advance(work)))
    crowd, victim = [FakeClient(core) for _ in range(20)], FakeClient(core)
    for client in crowd:
        client.send(("session.heartbeat", {"session_ids": names}))
    for turn in range(1, 3 * len(crowd)):
        await asyncio.sleep(0)
        assert len(shares) <= 2 * turn
    assert await turns_until(victim, victim.send(("server.ping", {}))) <= 3


async def test_requests_behind_it_wait_for_it(core: Core) -> None:
    names = await created(core, MANY)
    client = FakeClient(core)
    beat, end, ping = client.send(
        ("session.heartbeat", {"session_ids": names}),
        ("session.end", {"session_id": names[-1]}),
        ("server.ping", {}),
    )
    await turns_until(client, [beat, end, ping])
    assert client.replies[beat]["result"]["ended"] == [], "it was sent before the end"
    assert [*client.replies] == [beat, end, ping]


async def test_requests_behind_two_of_them_wait_for_both(core: Core) -> None:
    """One of which had to wait for the store before it began, in time that is long enough for that."""
    names = await created(core, MANY) * (MAX_HEARTBEAT_IDS // MANY)
    core.memory.put("a", b'{"id":"a","status":"active"}', StoredMeta(host=HOST, version=5))
    core.memory.hold()
    client = FakeClient(core)
    turns = client.send(("session.add_turn", {"session_id": "a", "turns": [{"role": "user"}] * 20_000}))
    await core.memory.called.wait()
    beat = client.send(("session.heartbeat", {"session_ids": names}))
    while not client.connection.busy:
        await asyncio.sleep(0)
    core.memory.let_go()
    while client.connection.busy < 2:
        assert not client.answered(beat)
        await asyncio.sleep(0)
    load = client.send(("session.load", {"session_id": "a", "history": "none"}))
    await turns_until(client, [*turns, *beat, *load])
    assert client.replies[load[0]]["result"]["turn_count"] == 20_000


async def test_a_client_that_left_in_between_has_its_request_done(core: Core) -> None:
    names = await created(core, MANY)
    core.clock.advance(20.0)
    client = FakeClient(core)
    client.send(("session.heartbeat", {"session_ids": names}))
    client.connection.connection_lost(None)
    await core.server.answered(20.0)
    assert core.server.waiting == 0
    assert core.session(names[-1]).beat_us == core.clock.wall_us()


async def test_a_listing_that_saw_what_is_undone_is_made_again(core: Core) -> None:
    await created(core, 3 * LOOKS_A_STEP)
    reader, writer = FakeClient(core), FakeClient(core)
    core.disk.error = OSError(28, "No space left on device")  # type: ignore[attr-defined]
    writer.send(("session.end", {"session_id": "s0"}))
    listing = reader.send(("session.list", {"status": "ended"}))
    await turns_until(reader, listing)
    assert reader.replies[listing[0]]["result"]["sessions"] == [], "the end was not journaled"


async def test_a_page_where_nothing_matches_looks_at_so_many_sessions_and_no_more(core: Core) -> None:
    names = await created(core, LOOKS_A_PAGE + 500)
    client = FakeClient(core)
    seen: list[str] = []
    for method, params in (
        ("session.list", {"provider": "nobody"}),
        ("session.list", {"provider": "nobody", "scope": "all"}),
        ("session.list", {"labels": {"a": "b"}}),
    ):
        first = client.send((method, params))
        assert await turns_until(client, first) >= LOOKS_A_PAGE // LOOKS_A_STEP - 2
        cursor = client.replies[first[0]]["result"]["next_cursor"]
        last = client.send((method, params | {"cursor": cursor}))
        await turns_until(client, last)
        assert client.replies[last[0]]["result"] == {"sessions": []}
    cursor = {}
    while cursor is not None:
        page = client.send(("session.list_active", {"limit": 10_000, **cursor}))
        await turns_until(client, page)
        result = client.replies[page[0]]["result"]
        seen += result["session_ids"]
        cursor = {"cursor": result["next_cursor"]} if "next_cursor" in result else None  # type: ignore[assignment]
    assert seen == names


async def test_what_the_store_lists_is_shown_in_slices_and_for_one_client_at_a_time(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    core.memory.active = {f"stored-{number:03}" for number in range(300)}
    clients = [FakeClient(core) for _ in range(10)]
    ids = [client.send(("session.list_active", {"scope": "all"})) for client in clients]
    turns = sum([await turns_until(*each) for each in zip(clients, ids, strict=True)])
    assert turns >= 10 * 300
    for client, [request_id] in zip(clients, ids, strict=True):
        assert client.replies[request_id]["result"]["session_ids"] == sorted(core.memory.active)


async def test_orphans_with_one_of_two_labels_are_looked_at_in_steps(core: Core) -> None:
    for name in await created(core, 4000):
        session = core.session(name)
        labels = {"app": "x"} if int(name[1:]) % 2 else {"lang": "y"}
        session.change_facts(orphan="released", labels=labels)
        core.table.index.update(session)
    client, other = FakeClient(core), FakeClient(core)
    claim = client.send(("session.claim_next", {"worker_id": "w1", "labels": {"app": "x", "lang": "y"}}))
    assert await turns_until(other, other.send(("server.ping", {}))) <= 2
    assert await turns_until(client, claim) >= 5
    assert client.replies[claim[0]]["result"] is None
    core.session("s3999").change_facts(labels={"app": "x", "lang": "y"})
    core.table.index.update(core.session("s3999"))
    claim = client.send(("session.claim_next", {"worker_id": "w1", "labels": {"app": "x", "lang": "y"}}))
    await turns_until(client, claim)
    assert client.replies[claim[0]]["result"]["session"]["id"] == "s3999"


# -- heartbeats of what is not hot ---------------------------------------------------------------------------------


async def test_a_heartbeat_of_unknown_sessions_is_a_few_reads_and_a_task(core: Core) -> None:
    client = FakeClient(core)
    before = len(asyncio.all_tasks())
    names = [f"u{i}" for i in range(MAX_HEARTBEAT_IDS)]
    beat = client.send(("session.heartbeat", {"session_ids": names}))
    most_tasks = 0
    while not client.answered(beat):
        most_tasks = max(most_tasks, len(asyncio.all_tasks()) - before)
        await asyncio.sleep(0)
    assert client.replies[beat[0]]["result"]["missing"] == names
    assert most_tasks <= read_through.READERS
    reads = core.memory.joint_reads
    assert len(core.memory.reads) <= 1
    assert len(reads) <= MAX_HEARTBEAT_IDS // IDS_A_STEP + 1
    assert max(map(len, reads)) <= read_through.READ_TOGETHER
    again = client.send(("session.heartbeat", {"session_ids": names[-1000:]}))
    await turns_until(client, again)
    assert len(core.memory.joint_reads) == len(reads), "misses are remembered for a second"


LONG = "x" * 2 * LONG_BYTES
KEPT = [{"role": "user", "content": f"kept {i}" * 100, "timestamp": TIME, "duration_ms": 1} for i in range(9)]
STATE = {
    "id": "a", "provider": "sip", "direction": "inbound", "from": "+1", "to": "+2", "status": "active",
    "history": KEPT,
}  # fmt: skip
LONG_REQUESTS = {
    "a long head": ("session.save", {"session": STATE | {"recovery_data": {"x": LONG}}}),
    "a long head without history": ("session.save", {"session": {"id": "a", "recovery_data": {"x": LONG}}}),
    "a long head with a new turn": (
        "session.save", {"session": STATE | {"recovery_data": {"x": LONG}, "history": [*KEPT, KEPT[0]]}},
    ),
    "a long unknown member": ("session.save", {"session": STATE | {"note": LONG}}),
    "a long patch": ("session.update", {"session_id": "a", "set": {"recovery_data": {"x": LONG, "y": {"z": "é"}}}}),
    "a long patch of another member": ("session.update", {"session_id": "a", "set": {"note": [LONG]}}),
    "a long turn": ("session.add_turn", {"session_id": "a", "turn": KEPT[0] | {"content": LONG}}),
    "a long turn, not whole": ("session.add_turn", {"session_id": "a", "turn": {"content": LONG}}),
    "a long turn with a tool": ("session.add_turn", {"session_id": "a", "turn": KEPT[0] | {"tool": {"x": [LONG]}}}),
}  # fmt: skip


@pytest.mark.parametrize("name", LONG_REQUESTS)
async def test_a_long_value_is_checked_in_steps_and_saved_over_what_came_between(
    core: Core, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)  # each step gives way, however fast or slow the machine is
    method, params = LONG_REQUESTS[name]
    busy, other = FakeClient(core), FakeClient(core)
    await turns_until(busy, busy.send(("session.save", {"session": STATE})))
    long = busy.send((method, params))
    between = other.send(("session.add_turn", {"session_id": "a", "turn": KEPT[1] | {"content": "between"}}))
    assert await turns_until(other, between) <= 2
    assert not busy.answered(long)
    assert await turns_until(busy, long) >= 2
    assert "result" in busy.replies[long[0]]
    kept = [turn["content"] for turn in KEPT]
    history = {
        "a long head": kept,
        "a long head with a new turn": [*kept, KEPT[0]["content"]],
        "a long unknown member": kept,
    }.get(name, [*kept, "between", *([params["turn"]["content"]] if "turn" in params else [])])
    document = json.loads(core.session("a").doc.to_json(0))
    assert [turn["content"] for turn in document["history"]] == history
    expected = params.get("session", params.get("set", {}))
    assert {name: document[name] for name in expected if name != "history"} == {
        name: value for name, value in expected.items() if name != "history"
    }


async def test_a_long_amendment_is_checked_in_steps_and_of_what_is_there_then(core: Core) -> None:
    busy, other = FakeClient(core), FakeClient(core)
    await turns_until(busy, busy.send(("session.save", {"session": STATE})))
    changes = {"content": LONG, "tool": {"x": LONG}}
    long = busy.send(("session.amend_turn", {"session_id": "a", "set": changes}))
    between = other.send(("session.add_turn", {"session_id": "a", "turn": KEPT[1] | {"content": "between"}}))
    assert await turns_until(other, between) <= 2
    assert not busy.answered(long)
    assert await turns_until(busy, long) >= 2
    history = json.loads(core.session("a").doc.to_json(0))["history"]
    assert history == [*KEPT, KEPT[1] | changes]


async def test_a_long_update_is_applied_in_steps_to_what_is_there_then(core: Core) -> None:
    """Another update comes in between, and keeps its own."""
    await core.save("s")
    client, other = FakeClient(core), FakeClient(core)
    members = {f"k{number}": {"x": "y" * 20} for number in range(3000)}
    for count in (1, 2):  # of an empty value, and of a long one
        long = client.send(
            ("session.update", {"session_id": "s", "set": {"recovery_data": members | {"n": count}}})
        )
        turns = 0
        while not client.answered(long):
            turns += 1
            if turns in (20, 30):
                other.send(("session.update", {"session_id": "s", "set": {"provider": f"p{turns}"}}))
            await asyncio.sleep(0)
        assert turns > 60
    loaded = await core.call("session.load", session_id="s", history="none")
    assert loaded["session"]["provider"] == "p30"
    assert loaded["session"]["recovery_data"] == members | {"n": 2}


async def test_an_update_of_a_session_that_never_rests_is_made_all_the_same(core: Core) -> None:
    await core.save("s")
    client, other = FakeClient(core), FakeClient(core)
    long = client.send(("session.update", {"session_id": "s", "set": {"recovery_data": {"x": "y" * 100_000}}}))
    turns = 0
    while not client.answered(long):
        turns += 1
        other.send(("session.update", {"session_id": "s", "set": {"provider": f"p{turns}"}}))
        await asyncio.sleep(0)
        assert turns < 100
    assert "result" in client.replies[long[0]]


async def test_a_short_update_of_a_long_head_takes_steps_if_it_reads_it(core: Core) -> None:
    await core.save("s", session={"recovery_data": {"x": "y" * 100_000}})
    client = FakeClient(core)
    status = client.send(("session.update", {"session_id": "s", "set": {"status": "on_hold"}}))
    assert await turns_until(client, status) <= 2
    member = client.send(("session.update", {"session_id": "s", "set": {"campaign": 1}}))
    assert await turns_until(client, member) > 3


@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("session.save", {"session": STATE | {"recovery_data": [LONG]}}, "$.params.session.recovery_data"),
        ("session.save", {"session": STATE | {"note": [LONG, 2**63]}}, "$.params.session.note[1]"),
        ("session.update", {"session_id": "a", "set": {"recovery_data": LONG}}, "$.params.set.recovery_data"),
        ("session.update", {"session_id": "a", "set": {"metrics": LONG}}, "$.params.set.metrics"),
        ("session.update", {"session_id": "a", "set": {"call_id": LONG}}, "$.params.set.call_id"),
        ("session.update", {"session_id": "a", "set": {"x": LONG, "id": "b"}}, "$.params.set.id"),
        ("session.amend_turn", {"session_id": "a", "set": {"content": LONG, "role": 5}}, "$.params.set.role"),
        ("session.add_turn", {"session_id": "a", "turn": {"content": LONG, "role": 5}}, "$.params.turn.role"),
        ("session.add_turn", {"session_id": "a", "turn": {"x": [LONG, 2**63]}}, "$.params.turn.x[1]"),
    ],
)
async def test_a_long_value_that_is_wrong_is_refused_by_its_place(
    core: Core, method: str, params: dict[str, Any], path: str
) -> None:
    client = FakeClient(core)
    saved, refused = client.send(("session.save", {"session": STATE}), (method, params))
    await turns_until(client, [saved, refused])
    assert client.replies[refused]["error"]["data"]["path"] == path
    assert "recovery_data" not in json.loads(core.session("a").doc.to_json(0))


@pytest.mark.parametrize("method", ["session.add_turn", "session.save", "session.amend_turn"])
async def test_many_turns_for_a_session_that_only_the_store_has_are_added_after_one_read(
    core: Core, method: str
) -> None:
    """A session of other software does not become hot by being read: all steps are shown what was."""
    turns = [{"role": "user", "content": "x" * 300}] * 1000
    stored = {"id": "go", "status": "active", "history": turns if method == "session.amend_turn" else []}
    core.memory.put("go", json.dumps(stored).encode(), None)
    client = FakeClient(core)
    params = {
        "session.add_turn": {"session_id": "go", "turns": turns},
        "session.save": {"session": {"id": "go", "history": turns}},
        "session.amend_turn": {"session_id": "go", "index": 3, "set": {"content": "y"}},
    }
    answered = client.send((method, params[method]))
    for _ in range(5000):
        await asyncio.sleep(0)
    assert client.answered(answered)
    assert "result" in client.replies[answered[0]]
    assert core.memory.reads == ["go"]
    assert core.session("go").doc.turn_count == 1000
    assert core.ctx.reading is None


async def test_a_heartbeat_may_name_so_many_sessions_and_no_more(core: Core) -> None:
    client = FakeClient(core)
    beat = client.send(("session.heartbeat", {"session_ids": ["u"] * (MAX_HEARTBEAT_IDS + 1)}))
    await turns_until(client, beat)
    assert client.replies[beat[0]]["error"]["data"]["kind"] == "invalid_params"


async def test_each_session_that_is_read_counts_as_a_waiting_request(core: Core) -> None:
    core.memory.hold()
    client = FakeClient(core)
    names = [f"u{i}" for i in range(1200)]
    beat = client.send(("session.heartbeat", {"session_ids": names}))
    while client.connection.busy or not client.connection.waiting:
        await asyncio.sleep(0)
    assert client.connection.waiting == 1200
    ping = client.send(("server.ping", {}))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not client.answered(ping), "no more is served while so many wait"
    assert not client.reading
    core.memory.let_go()
    await turns_until(client, [*beat, *ping])
    assert client.connection.waiting == client.connection.expected_bytes == 0


async def test_a_heartbeat_during_an_outage_fails_as_one(core: Core) -> None:
    core.memory.failure = down
    client = FakeClient(core)
    beat = client.send(("session.heartbeat", {"session_ids": [f"u{i}" for i in range(500)]}))
    await turns_until(client, beat)
    assert client.replies[beat[0]]["error"]["data"]["kind"] == "store_unavailable"


# -- many turns ----------------------------------------------------------------------------------------------------

TURN = {"role": "user", "content": "hello", "timestamp": "2026-01-01T00:00:00Z", "duration_ms": 1}


async def test_ten_thousand_turns_are_added_in_steps_and_at_once(core: Core) -> None:
    client, other = FakeClient(core), FakeClient(core)
    await turns_until(client, client.send(("session.save", {"session": {"id": "a"}})))
    add = client.send(("session.add_turn", {"session_id": "a", "turns": [TURN] * 10_000}))
    assert await turns_until(other, other.send(("server.ping", {}))) <= 3
    assert core.session("a").doc.turn_count == 0, "all of them, or none yet"
    assert await turns_until(client, add) > 100
    assert client.replies[add[0]]["result"]["turn_count"] == 10_000
    assert core.session("a").doc.metrics.user_speech_duration_ms == 10_000


async def test_a_save_whose_session_changes_meanwhile_is_judged_by_what_is_there_then(core: Core) -> None:
    client, other = FakeClient(core), FakeClient(core)
    await turns_until(client, client.send(("session.save", {"session": {"id": "a", "history": [TURN]}})))
    save = client.send(("session.save", {"session": {"id": "a", "history": [TURN] * 2000}}))
    await turns_until(other, other.send(("session.add_turn", {"session_id": "a", "turn": TURN})))
    assert not client.answered(save)
    await turns_until(client, save)
    doc = core.session("a").doc
    assert (doc.turn_count, sum(doc.counts)) == (2000, 2000)
    known = {"if_version": core.session("a").version}
    stale = client.send(("session.save", {"session": {"id": "a", "history": [TURN] * 4000}, **known}))
    await turns_until(other, other.send(("session.add_turn", {"session_id": "a", "turn": TURN})))
    await turns_until(client, stale)
    assert client.replies[stale[0]]["error"]["data"]["kind"] == "conflict"
    assert doc.turn_count == 2001
