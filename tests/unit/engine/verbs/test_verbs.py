"""The verbs: each rule of the contract, one at a time, over a real core with time and store passed in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.liveness import Phase
from callstate_client.engine.request import BadRequest, read_request
from callstate_client.engine.table.replay import snapshot
from callstate_client.engine.verbs import listing
from callstate_client.engine.verbs.table import VERBS
from callstate_client.errors import (
    ConflictError,
    FencedError,
    InvalidParamsError,
    OverloadedError,
    ParseError,
    SessionEndedError,
    SessionNotFoundError,
    StoreUnavailableError,
    TooLargeError,
    WireError,
)
from callstate_client.model.times import parse_us
from callstate_sidecar.config.schema import LimitsConfig, ReaperConfig, StoreConfig
from support.clock import START_US
from support.core import TIME, Core, kept
from support.core_harness import CoreHarness
from support.stores import down, refusing


@pytest.fixture
async def core() -> Any:
    core = Core()
    yield core
    # whatever a test did: the log alone brings it all back
    assert {i: kept(e) for i, e in core.replayed().sessions.items()} == {
        i: kept(e) for i, e in core.table.sessions.items()
    }


async def refused(error: type[WireError], core: Core, method: str, **params: Any) -> WireError:
    """The error of a request that must fail, and must change nothing."""
    before = {i: kept(entry) for i, entry in core.table.sessions.items()}
    with pytest.raises(error) as caught:
        await core.call(method, **params)
    assert {i: kept(entry) for i, entry in core.table.sessions.items()} == before
    assert caught.value.kind
    return caught.value


def reap(core: Core) -> None:
    """All that is silent is ended by the daemon."""
    for _ in range(2):
        core.clock.advance(31.0)
        core.reaper.tick(core.clock.live())


# -- save --------------------------------------------------------------------------------------------------------


async def test_save_creates_and_replaces(core: Core) -> None:
    saved = await core.save("a", session={"call_id": "CA1", "from": "+1", "x": 1, "history": [{"role": "user"}]})
    beside = {"epoch": 0, "heartbeat_timeout_s": 30.0}
    assert saved == {"version": START_US, "updated_at": TIME} | beside
    core.clock.advance(1.5)
    again = await core.save("a", session={"to": "+2", "history": []})
    assert again == {"version": START_US + 1_500_000, "updated_at": "2026-01-01T00:00:01.500000Z"} | beside
    session = (await core.call("session.load", session_id="a"))["session"]
    assert session == {
        "id": "a", "created_at": TIME, "provider": "twilio", "direction": "", "from": "", "to": "+2",
        "status": "active", "updated_at": "2026-01-01T00:00:01.500000Z", "history": [],
        "metrics": {
            "turn_count": 0, "interruption_count": 0, "user_speech_duration_ms": 0, "agent_speech_duration_ms": 0,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("history", "left"), [(None, 2), ("omit", 2), ("null", 0), ("[]", 0), ("same", 2), ("more", 3), ("less", 1)]
)
async def test_what_a_save_does_to_the_history(core: Core, history: str | None, left: int) -> None:
    turns = [{"role": "user", "content": str(number), "timestamp": TIME} for number in range(3)]
    await core.save("a", session={"history": turns[:2]})
    given = {"null": None, "[]": [], "same": turns[:2], "more": turns, "less": turns[:1]}
    session = {"history": given[history]} if history in given else {}
    await core.save("a", session=session)
    loaded = await core.call("session.load", session_id="a")
    assert loaded["turn_count"] == left
    assert loaded["session"]["history"] == turns[:left]


async def test_a_save_that_goes_on_where_it_ended_journals_the_rest_alone(core: Core) -> None:
    turns = [{"role": "user", "content": "x" * 1000, "timestamp": TIME} for _ in range(3)]
    await core.save("a", session={"history": turns[:2]})
    await core.save("a", session={"history": turns})
    await core.save("a", session={"history": turns})
    assert [len(record.turns) // 1000 for record in core.logged] == [2, 1, 0]  # type: ignore[union-attr]


async def test_a_wrong_turn_is_named_by_its_place_in_the_whole_history(core: Core) -> None:
    good = {"role": "user", "timestamp": TIME}
    await core.save("a", session={"history": [good, good]})
    error = await refused(
        InvalidParamsError, core, "session.save", session={"id": "a", "history": [good, good, {"role": 5}]}
    )
    assert error.data["path"] == "$.params.session.history[2].role"


async def test_if_version(core: Core) -> None:
    first = await core.save("a", if_version=0)
    error = await refused(ConflictError, core, "session.save", session={"id": "a"}, if_version=0)
    assert error.data["version"] == first["version"]
    second = await core.save("a", if_version=first["version"])
    await refused(ConflictError, core, "session.save", session={"id": "a"}, if_version=first["version"])
    await refused(ConflictError, core, "session.update", session_id="a", set={"x": 1}, if_version=first["version"])
    await core.call("session.update", session_id="a", set={"x": 1}, if_version=second["version"])
    error = await refused(ConflictError, core, "session.save", session={"id": "b"}, if_version=7)
    assert error.data["version"] == 0


async def test_what_stands_beside_the_document_stays_where_a_save_leaves_it_out(core: Core) -> None:
    await core.save("a", labels={"app": "x"}, heartbeat_timeout_s=2.0, max_duration_s=60.0)
    await core.save("a")
    facts = core.session("a").facts
    assert (facts.labels, facts.heartbeat_timeout_s, facts.max_duration_s) == (
        {"app": "x"},
        2.0,
        60.0,
    )
    await core.save("a", labels={})
    assert core.session("a").facts.labels == {}


@pytest.mark.parametrize(
    ("beside", "path"),
    [
        ({"labels": {str(n): "" for n in range(17)}}, "$.params.labels"),
        ({"labels": {"": "x"}}, "$.params.labels."),
        ({"labels": {"é" * 33: "x"}}, "$.params.labels." + "é" * 33),
        ({"labels": {"a": "x" * 257}}, "$.params.labels.a"),
        ({"labels": {"a": 5}}, "$.params.labels[...]"),
        ({"heartbeat_timeout_s": 0}, "$.params.heartbeat_timeout_s"),
        ({"max_duration_s": -1}, "$.params.max_duration_s"),
        ({"if_version": -1}, "$.params.if_version"),
        ({"op": ""}, "$.params.op"),
        ({"op": "x" * 65}, "$.params.op"),
        ({"if_versoin": 3}, "$.params.if_versoin"),
    ],
)
async def test_params_that_are_wrong_are_named(core: Core, beside: dict[str, Any], path: str) -> None:
    error = await refused(InvalidParamsError, core, "session.save", session={"id": "a"}, **beside)
    assert error.data["path"] == path
    assert error.data["expected"]


@pytest.mark.parametrize("bad", ["", "a b", "a{b}", "@a", "active", "é", "x" * 257, "a\n"])
async def test_ids_that_could_not_be_kept_are_refused(core: Core, bad: str) -> None:
    error = await refused(InvalidParamsError, core, "session.save", session={"id": bad})
    assert error.data["path"] == "$.params.session.id"
    for method in ("session.load", "session.heartbeat", "session.delete", "session.end"):
        error = await refused(InvalidParamsError, core, method, session_id=bad)
        assert error.data["path"] == "$.params.session_id"


async def test_a_session_may_not_grow_without_bound() -> None:
    core = Core(limits=LimitsConfig(session_bytes=2000))
    await core.save("a", session={"history": [{"content": "x" * 1000, "timestamp": TIME}]})
    big = {"content": "x" * 1000}
    await refused(TooLargeError, core, "session.add_turn", session_id="a", turn=big)
    bigger = {"content": "x" * 2000}
    await refused(TooLargeError, core, "session.amend_turn", session_id="a", set=bigger)
    await refused(TooLargeError, core, "session.update", session_id="a", set={"recovery_data": big})
    await refused(TooLargeError, core, "session.save", session={"id": "a", "recovery_data": big})
    await refused(TooLargeError, core, "session.save", session={"id": "b", "history": [big, big]})
    await core.turn("a")
    await core.call("session.amend_turn", session_id="a", index=0, set={"content": "x" * 1400})
    await refused(TooLargeError, core, "session.add_turn", session_id="a", turn=big)
    await core.call("session.amend_turn", session_id="a", index=0, set={"content": "x" * 1399})


async def test_a_session_without_room_for_a_turn_is_told_of_once(tmp_path: Path) -> None:
    harness = CoreHarness(tmp_path, limits=LimitsConfig(session_bytes=2000))
    worker = await harness.worker("w1")
    await harness.save(worker, "a")
    await harness.request(worker, "session.add_turn", session_id="a", turn={"content": "x" * 1000})
    harness.new_events()
    for again in range(2):
        for _ in range(3):
            await harness.refused(worker, "session.add_turn", session_id="a", turn={"content": "x" * 1000})
        assert [event["type"] for event in harness.new_events()] == ["session.full"]
        await harness.add_turn(worker, "a")
        await harness.request(
            worker, "session.amend_turn", session_id="a", index=0, set={"content": "x" * (990 - again)}
        )
    await harness.close()


SAVES = {
    "bare": {"id": "a"},
    "all": {
        "id": "a", "created_at": TIME, "updated_at": TIME, "call_id": "CA", "provider": "sip",
        "direction": "inbound", "from": "1", "to": "2", "status": "", "history": [{"timestamp": TIME}],
        "metrics": {"turn_count": 1, "first_response_ms": 3}, "recovery_data": {"x": [1]},
    },
    "nulls": {"id": "a", "created_at": None, "history": None, "metrics": None, "recovery_data": None},
    "more": {"id": "a", "x": 1},
    "more metrics": {"id": "a", "metrics": {"x": 1}},
    "wide": {"id": "a", "provider": "é" * 32},
    "too wide": {"id": "a", "provider": "é" * 33},
    "long": {"id": "a", "provider": "x" * 65},
    "time": {"id": "a", "updated_at": "2026-01-01"},
    "status": {"id": "a", "status": None},
    "history": {"id": "a", "history": {}},
    "turn": {"id": "a", "history": [{"role": None}]},
    "metrics": {"id": "a", "metrics": {"turn_count": "1"}},
    "big metrics": {"id": "a", "metrics": {"turn_count": 2**63}},
    "recovery": {"id": "a", "recovery_data": [2**64]},
    "no id": {},
    "id": {"id": 5},
}  # fmt: skip


@pytest.mark.parametrize("session", SAVES.values(), ids=SAVES)
async def test_a_save_in_one_pass_is_judged_as_one_read_the_long_way(session: dict[str, Any]) -> None:
    """A space after the method is enough to leave the short way."""
    text = json.dumps(session, ensure_ascii=True)
    outcomes = []
    for space in ("", " "):
        core = Core()
        core.table.tombstones.remember_miss("a", core.clock.mono())
        line = f'{{"jsonrpc":"2.0","id":1,"method":"session.save",{space}"params":{{"session":{text}}}}}'
        try:
            asked = read_request(line.encode())
            assert asked is not None
            outcomes.append((asked.verb.run(core.ctx, INTERNAL, asked.params), kept(core.session("a"))))
        except BadRequest as gone:
            outcomes.append((gone.request_id, gone.error.to_wire()))  # type: ignore[arg-type]
        except WireError as error:
            outcomes.append((b"1", error.to_wire()))  # type: ignore[arg-type]
    assert outcomes[0] == outcomes[1]


# -- load and lists ----------------------------------------------------------------------------------------------


async def test_parts_of_a_history(core: Core) -> None:
    turns = [{"content": str(number), "timestamp": TIME} for number in range(5)]
    await core.save("a", session={"history": turns})
    for history, begin in (("all", 0), (0, 5), (2, 3), (5, 0), (99, 0)):
        loaded = await core.call("session.load", session_id="a", history=history)
        assert loaded["session"]["history"] == turns[begin:]
        assert (loaded["history_from"], loaded["turn_count"]) == (begin, 5)
    none = await core.call("session.load", session_id="a", history="none")
    assert "history" not in none["session"]
    assert (none["history_from"], none["turn_count"]) == (0, 5)
    for wrong in ("some", -1, 1.5, None):
        error = await refused(InvalidParamsError, core, "session.load", session_id="a", history=wrong)
        assert error.data["path"] == "$.params.history"


async def test_updated_at_is_the_later_of_change_and_beat(core: Core) -> None:
    await core.save("a")
    core.clock.advance(2.0)
    await core.call("session.heartbeat", session_id="a")
    core.clock.advance(2.0)
    loaded = await core.call("session.load", session_id="a")
    assert loaded["session"]["updated_at"] == "2026-01-01T00:00:02Z"


async def test_lists_go_page_by_page_through_what_matches(core: Core) -> None:
    for number in range(7):
        await core.save(
            f"s{number}", session={"status": "active" if number % 2 else "on_hold", "call_id": f"CA{number}"},
            labels={"app": "x", "n": str(number)},
        )  # fmt: skip
    core.clock.advance(1.0)
    await core.call("session.end", session_id="s3")
    found, cursor = [], None
    while True:
        page = await core.call("session.list_active", limit=2, **({"cursor": cursor} if cursor else {}))
        found += page["session_ids"]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert found == ["s0", "s1", "s2", "s4", "s5", "s6"]

    async def ids(**wanted: Any) -> list[str]:
        return [found["session"]["id"] for found in (await core.call("session.list", **wanted))["sessions"]]

    assert await ids(status="active") == ["s1", "s5"]
    assert await ids(status="ended") == ["s3"]
    assert await ids(provider="sip") == []
    assert await ids(call_id="CA4") == ["s4"]
    assert await ids(labels={"app": "x", "n": "2"}) == ["s2"]
    assert await ids(labels={"n": "x"}) == []
    assert await ids(ended_since="2026-01-01T00:00:01Z") == ["s3"]
    assert await ids(ended_since="2026-01-01T00:00:01.000001Z") == []
    assert await ids(ended_since="1970-01-01T00:00:00Z") == ["s3"], "since ever"
    assert await ids(ended_since="0001-01-01T00:00:00Z") == ["s3"]
    assert len(await ids(provider="twilio")) == 7
    first = await core.call("session.list", limit=3, status="on_hold")
    rest = await core.call("session.list", status="on_hold", cursor=first["next_cursor"])
    assert len(first["sessions"]) == 3
    assert [entry["session"]["id"] for entry in rest["sessions"]] == ["s6"]
    assert "history" not in first["sessions"][0]["session"]


async def test_a_page_that_holds_the_last_has_no_next(core: Core) -> None:
    for name in "ab":
        await core.save(name)
    assert "next_cursor" not in await core.call("session.list_active", limit=2)
    assert "next_cursor" not in await core.call("session.list", limit=2)


async def test_a_page_looks_at_no_more_sessions_than_one_turn_has_time_for(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "LOOKS_A_PAGE", 3)
    for number in range(8):
        await core.save(f"s{number}", session={"status": "on_hold" if number == 7 else "active"})
    pages: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await core.call("session.list", status="on_hold", **cursor)
        pages.append([found["session"]["id"] for found in page["sessions"]])
        if "next_cursor" not in page:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == [[], [], ["s7"]]
    first = await core.call("session.list_active", limit=100)
    assert first["session_ids"] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "9" * 20, "", "²"])
async def test_a_cursor_that_nobody_gave_out_is_refused(core: Core, cursor: str) -> None:
    await core.save("a")
    error = await refused(InvalidParamsError, core, "session.list", cursor=cursor)
    assert error.data["path"] == "$.params.cursor"


async def test_all_hosts_sessions_are_listed_from_the_store_and_our_own_as_they_are(core: Core) -> None:
    core.memory.put("theirs", b'{"id":"theirs"}', None)
    for name in ("gone", "ended", "new", "both"):
        await core.save(name)
    await core.writer.write_round()
    await core.call("session.delete", session_id="gone")
    await core.call("session.end", session_id="ended")
    await core.save("newest")
    assert core.memory.active == {"theirs", "gone", "ended", "new", "both"}
    page = await core.call("session.list_active", scope="all", limit=3)
    assert page["session_ids"] == ["new", "both", "newest"], "ours first, in the order in which they became hot"
    page = await core.call("session.list_active", scope="all", limit=3, cursor=page["next_cursor"])
    assert page == {"session_ids": ["theirs"]}
    core.memory.failure = down
    await refused(StoreUnavailableError, core, "session.list_active", scope="all")
    await refused(InvalidParamsError, core, "session.list_active", scope="some")


# -- mutations ---------------------------------------------------------------------------------------------------


async def test_turns_are_counted_and_completed(core: Core) -> None:
    await core.save("a")
    assert (await core.turn("a"))["turn_count"] == 1
    added = await core.call(
        "session.add_turn", session_id="a", turns=[{"role": "agent", "duration_ms": 7}, {"role": "tool", "x": 1}]
    )
    assert added["turn_count"] == 3
    session = (await core.call("session.load", session_id="a"))["session"]
    assert session["history"][1] == {"role": "agent", "content": "", "duration_ms": 7, "timestamp": TIME}
    assert session["history"][2] == {"role": "tool", "x": 1, "content": "", "duration_ms": 0, "timestamp": TIME}
    assert session["metrics"] == {
        "turn_count": 3, "interruption_count": 0, "user_speech_duration_ms": 100, "agent_speech_duration_ms": 7,
    }  # fmt: skip
    none = await core.call("session.add_turn", session_id="a", turns=[])
    assert none["turn_count"] == 3


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({}, "$.params"),
        ({"turn": {}, "turns": []}, "$.params"),
        ({"turn": None}, "$.params.turn"),
        ({"turns": {}}, "$.params.turns"),
        ({"turns": [{}, 5]}, "$.params.turns[1]"),
        ({"turn": {"role": 5}}, "$.params.turn.role"),
    ],
)
async def test_turns_that_are_none(core: Core, params: dict[str, Any], path: str) -> None:
    await core.save("a")
    error = await refused(InvalidParamsError, core, "session.add_turn", session_id="a", **params)
    assert error.data["path"] == path


async def test_counters_at_their_bound_take_the_turn_all_the_same(core: Core) -> None:
    full = 2**63 - 1
    await core.save("a", session={"metrics": {"turn_count": full, "user_speech_duration_ms": full}})
    await core.turn("a")
    await core.call("session.record_interruption", session_id="a")
    metrics = (await core.call("session.load", session_id="a"))["session"]["metrics"]
    assert (metrics["turn_count"], metrics["user_speech_duration_ms"], metrics["interruption_count"]) == (
        full,
        full,
        1,
    )
    await core.writer.write_round()
    assert core.memory.versions() == {"a": core.session("a").version}


async def test_an_amendment_keeps_the_rest_of_the_turn(core: Core) -> None:
    await core.save("a")
    error = await refused(ConflictError, core, "session.amend_turn", session_id="a", set={})
    assert "no turn" in error.message
    await core.turn("a", "all of it")
    await core.call("session.amend_turn", session_id="a", set={"content": "all", "interrupted": True})
    session = (await core.call("session.load", session_id="a"))["session"]
    assert session["history"] == [
        {"role": "user", "content": "all", "timestamp": TIME, "duration_ms": 100, "interrupted": True}
    ]
    assert session["metrics"]["turn_count"] == 1


async def test_a_repeat_gets_the_first_result_and_does_nothing(core: Core) -> None:
    await core.save("a")
    mutations: list[tuple[str, dict[str, Any]]] = [
        ("session.add_turn", {"turn": {}, "op": "1"}),
        ("session.amend_turn", {"set": {"content": "x"}, "op": "2"}),
        ("session.record_interruption", {"op": "3"}),
        ("session.update", {"set": {"x": 1}, "op": "4"}),
        ("session.end", {"op": "5"}),
    ]
    first = [await core.raw(method, session_id="a", **params) for method, params in mutations]
    saved = await core.raw("session.save", session={"id": "a", "status": "active"}, op="6")
    before = kept(core.session("a"))
    core.clock.advance(1.0)
    assert [await core.raw(method, session_id="a", **params) for method, params in mutations] == first
    assert await core.raw("session.save", session={"id": "a", "status": "ended"}, op="6", if_version=1) == saved
    assert kept(core.session("a")) == before
    assert core.replayed().sessions["a"].ops["1"] == first[0], "also after a restart"


async def test_the_last_sixteen_can_be_repeated(core: Core) -> None:
    await core.save("a")
    for number in range(17):
        await core.turn("a", op=str(number))
    assert (await core.turn("a", op="1"))["turn_count"] == 2
    assert (await core.turn("a", op="0"))["turn_count"] == 18, "forgotten: done anew"


async def test_an_epoch_that_is_not_the_sessions_is_fenced(core: Core) -> None:
    await core.save("a")
    core.session("a").change_facts(epoch=3)
    core.logged += snapshot(core.table)
    core.session("a").version += 1  # the log has it with this epoch from here on
    core.logged += snapshot(core.table)
    for method, params in (
        ("session.save", {"session": {"id": "a"}}),
        ("session.add_turn", {"session_id": "a", "turn": {}}),
        ("session.end", {"session_id": "a"}),
        ("session.delete", {"session_id": "a"}),
    ):
        error = await refused(FencedError, core, method, epoch=2, **params)
        assert error.data["epoch"] == 3
    await core.turn("a", epoch=3)
    await refused(SessionNotFoundError, core, "session.save", session={"id": "b"}, epoch=3)


async def test_an_update_patches_the_head(core: Core) -> None:
    await core.save("a", session={"x": 1, "history": [{"timestamp": TIME}]})
    await core.call("session.update", session_id="a", set={"status": "on_hold", "x": None, "y": {"z": 2}})
    loaded = await core.call("session.load", session_id="a")
    assert loaded["session"]["status"] == "on_hold"
    assert "x" not in loaded["session"]
    assert loaded["session"]["y"] == {"z": 2}
    assert loaded["turn_count"] == 1
    error = await refused(InvalidParamsError, core, "session.update", session_id="a", set={"history": []})
    assert error.data["path"] == "$.params.set.history"


async def test_what_is_not_there_is_not_found(core: Core) -> None:
    for method, params in (
        ("session.load", {}),
        ("session.heartbeat", {}),
        ("session.add_turn", {"turn": {}}),
        ("session.amend_turn", {"set": {}}),
        ("session.record_interruption", {}),
        ("session.update", {"set": {}}),
        ("session.end", {}),
        ("session.delete", {}),
        ("session.delete", {"op": "op-1", "epoch": 3}),
    ):
        await refused(SessionNotFoundError, core, method, session_id="nobody", **params)


@pytest.mark.parametrize("stored", [False, True])
async def test_a_repeated_deletion_gets_the_first_result(core: Core, stored: bool) -> None:
    await core.save("a")
    if stored:
        await core.writer.write_round()
    asked = {"session_id": "a", "op": "op-1"}
    assert await core.call("session.delete", **asked) == {}
    for _ in range(2):
        assert await core.call("session.delete", **asked) == {}
        await refused(SessionNotFoundError, core, "session.delete", session_id="a")
        await refused(SessionNotFoundError, core, "session.delete", session_id="a", op="op-2")
        await core.writer.write_round()
        core.clock.advance(5)  # longer than a miss is remembered: now the store's tombstone says it


async def test_a_late_repeat_of_a_deletion_spares_the_session_made_since(core: Core) -> None:
    await core.save("a")
    await core.call("session.delete", session_id="a", op="op-1")
    await core.save("a")
    assert await core.call("session.delete", session_id="a", op="op-1") == {}
    assert "a" in core.table.sessions
    assert await core.call("session.delete", session_id="a", op="op-2") == {}
    assert "a" not in core.table.sessions


async def test_params_that_are_no_json_are_a_parse_error(core: Core) -> None:
    with pytest.raises(ParseError):
        await core.begin("session.load", b'{"session_id":"\\ud800"}')
    with pytest.raises(ParseError):
        await core.begin("session.save", b'{"session":{"id":"a","x":"\\ud800"}}')


# -- the end -----------------------------------------------------------------------------------------------------


async def test_an_end_is_told_once(core: Core) -> None:
    await core.save("a")
    core.clock.advance(5.0)
    ended = await core.call("session.end", session_id="a", reason="hangup", detail={"cause": 16})
    core.clock.advance(5.0)
    assert await core.call("session.end", session_id="a", reason="other", epoch=0) == ended
    await refused(FencedError, core, "session.end", session_id="a", reason="other", epoch=99)
    loaded = await core.call("session.load", session_id="a")
    assert (loaded["ended_reason"], loaded["ended_detail"]) == ("hangup", {"cause": 16})
    assert loaded["session"]["updated_at"] == "2026-01-01T00:00:05Z"
    assert (await core.call("session.list_active"))["session_ids"] == []
    error = await refused(SessionEndedError, core, "session.heartbeat", session_id="a")
    assert error.data["ended_at"] == "2026-01-01T00:00:05Z"
    assert error.data["reason"] == "hangup"


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"reason": ""}, "$.params.reason"),
        ({"reason": "x" * 65}, "$.params.reason"),
        ({"detail": "x" * 1100}, "$.params.detail"),
        ({"detail": {"n": 2**64}}, "$.params.detail"),
    ],
)
async def test_an_end_is_checked(core: Core, params: dict[str, Any], path: str) -> None:
    await core.save("a")
    error = await refused(InvalidParamsError, core, "session.end", session_id="a", **params)
    assert error.data["path"] == path


async def test_what_a_worker_ended_takes_late_turns_but_no_beat(core: Core) -> None:
    await core.save("a")
    await core.call("session.end", session_id="a")
    assert (await core.turn("a"))["turn_count"] == 1
    await core.call("session.update", session_id="a", set={"summary": "x"})
    await core.call("session.amend_turn", session_id="a", set={"content": "y"})
    await core.call("session.record_interruption", session_id="a")
    loaded = await core.call("session.load", session_id="a")
    assert loaded["ended_reason"] == "completed"
    assert core.liveness.phase("a") is Phase.ENDED
    beats = await core.call("session.heartbeat", session_ids=["a"])
    assert beats == {"missing": [], "ended": ["a"], "fenced": []}


async def test_a_save_with_another_status_revives_what_a_worker_ended(core: Core) -> None:
    await core.save("a", heartbeat_timeout_s=2.0)
    await core.call("session.end", session_id="a", reason="hangup", detail={"x": 1})
    await core.save("a")
    loaded = await core.call("session.load", session_id="a")
    assert "ended_reason" not in loaded
    assert core.liveness.phase("a") is Phase.LIVE
    core.clock.advance(2.0)
    core.reaper.tick(core.clock.live())
    assert core.liveness.phase("a") is Phase.SUSPECT, "with the timeout it had"


async def test_a_save_that_ends_ends(core: Core) -> None:
    await core.save("a")
    await core.save("a", session={"status": "ended"})
    assert core.liveness.phase("a") is Phase.ENDED
    assert core.session("a").facts.ended_reason == "completed"
    await core.save("b", session={"status": "ended"})
    assert core.liveness.phase("b") is Phase.ENDED


async def test_what_the_daemon_reaped_takes_nothing_more(core: Core) -> None:
    await core.save("a")
    core.clock.advance(3.0)
    await core.call("session.heartbeat", session_id="a")
    reap(core)
    for method, params in (
        ("session.save", {"session": {"id": "a", "status": "active"}}),
        ("session.add_turn", {"session_id": "a", "turn": {}}),
        ("session.amend_turn", {"session_id": "a", "set": {}}),
        ("session.record_interruption", {"session_id": "a"}),
        ("session.update", {"session_id": "a", "set": {}}),
        ("session.heartbeat", {"session_id": "a"}),
    ):
        error = await refused(SessionEndedError, core, method, **params)
        assert error.data["reason"] == "heartbeat_timeout"
    loaded = await core.call("session.load", session_id="a")
    assert loaded["session"]["updated_at"] == "2026-01-01T00:00:03Z", "its last sign of life"
    version = loaded["version"]
    assert await core.call("session.end", session_id="a") == {"version": version}
    await core.call("session.delete", session_id="a")


# -- life --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["beat", "beats", "turn", "save", "update", "interruption", "amend"])
async def test_whatever_a_worker_does_is_a_sign_of_life(core: Core, sign: str) -> None:
    await core.save("a", session={"history": [{"timestamp": TIME}]})
    for _ in range(10):
        core.clock.advance(29.0)
        if sign == "beat":
            await core.call("session.heartbeat", session_id="a")
        elif sign == "beats":
            await core.call("session.heartbeat", session_ids=["a"])
        elif sign == "turn":
            await core.turn("a")
        elif sign == "save":
            await core.save("a")
        elif sign == "update":
            await core.call("session.update", session_id="a", set={"x": 1})
        elif sign == "interruption":
            await core.call("session.record_interruption", session_id="a")
        else:
            await core.call("session.amend_turn", session_id="a", set={"x": 1})
        core.reaper.tick(core.clock.live())
        assert core.liveness.phase("a") is Phase.LIVE
    assert core.session("a").beat_us == core.clock.wall_us()


async def test_reading_is_no_sign_of_life(core: Core) -> None:
    await core.save("a")
    core.clock.advance(30.0)
    await core.call("session.load", session_id="a")
    await core.call("session.list")
    core.reaper.tick(core.clock.live())
    assert core.liveness.phase("a") is Phase.SUSPECT


async def test_a_heartbeat_names_one_or_several(core: Core) -> None:
    for params in ({}, {"session_id": "a", "session_ids": ["a"]}):
        error = await refused(InvalidParamsError, core, "session.heartbeat", **params)
        assert error.data["path"] == "$.params"


async def test_a_new_timeout_holds_from_now_on(core: Core) -> None:
    await core.save("a")
    await core.save("a", heartbeat_timeout_s=5.0)
    core.clock.advance(5.0)
    core.reaper.tick(core.clock.live())
    assert core.liveness.phase("a") is Phase.SUSPECT


async def test_a_maximal_duration_counts_from_the_beginning_of_the_call(core: Core) -> None:
    await core.save("a", session={"created_at": "2025-12-31T23:59:50Z"}, max_duration_s=25.0)
    await core.save("zero", session={"created_at": "0001-01-01T00:00:00Z"}, max_duration_s=25.0)
    core.clock.advance(14.9)
    core.reaper.tick(core.clock.live())
    assert core.liveness.phase("a") is Phase.LIVE
    await core.call("session.heartbeat", session_ids=["a", "zero"])
    core.clock.advance(0.2)
    core.reaper.tick(core.clock.live())
    assert core.session("a").facts.ended_reason == "max_duration"
    assert core.liveness.phase("zero") is Phase.LIVE, "a zero time is no beginning"


# -- bounds, and a store that is away ----------------------------------------------------------------------------


async def test_no_more_sessions_than_allowed() -> None:
    core = Core(limits=LimitsConfig(sessions=2))
    await core.save("a")
    await core.save("b")
    error = await refused(OverloadedError, core, "session.save", session={"id": "c"})
    assert error.to_wire()["data"]["retryable"] is True
    await core.turn("a")
    await core.call("session.delete", session_id="a")
    await core.save("c")


async def test_with_the_store_away_for_long_live_calls_go_on_and_new_ones_wait() -> None:
    core = Core(store=StoreConfig(max_dirty_bytes=64 * 1024))
    await core.save("a", session={"x": "y" * 70_000})
    await core.save("b")  # the store is up: what is dirty is only on its way
    core.memory.failure = refusing
    await core.writer.write_round()
    await refused(OverloadedError, core, "session.save", session={"id": "c"})
    await core.turn("a")
    await core.call("session.heartbeat", session_id="b")
    await core.call("session.end", session_id="b")
    core.memory.failure = None
    await core.writer.write_round()
    await core.save("c")


async def test_with_the_store_away_a_save_is_taken_unverified(core: Core) -> None:
    core.memory.failure = down
    await refused(StoreUnavailableError, core, "session.save", session={"id": "a"}, if_version=7)
    await refused(StoreUnavailableError, core, "session.save", session={"id": "a"}, epoch=3)
    assert (await core.save("a"))["unverified"] is True
    assert (await core.save("c", if_version=0))["unverified"] is True
    assert (await core.save("c"))["unverified"] is True, "and so is what is added to it"
    assert core.session("a").unverified
    assert core.replayed().sessions["a"].unverified
    await core.call("session.delete", session_id="a")
    assert "a" in core.table.tombstones.pending, "nobody knows whether the store has one"
    core.memory.failure = None
    await core.save("b")
    await core.writer.write_round()
    assert not core.table.tombstones.pending
    assert not core.session("b").unverified
    assert "unverified" not in await core.save("b")
    assert not core.replayed().sessions["b"].unverified


async def test_a_deletion_is_final(core: Core) -> None:
    await core.save("a")
    await core.writer.write_round()
    await core.call("session.delete", session_id="a")
    for advance_s in (0.0, 5.0):
        core.clock.advance(advance_s)
        await refused(SessionNotFoundError, core, "session.load", session_id="a")
    await core.writer.write_round()
    core.clock.advance(5.0)
    await refused(SessionNotFoundError, core, "session.load", session_id="a")
    saved = await core.save("a", if_version=0)
    await core.writer.write_round()
    assert core.memory.versions() == {"a": saved["version"]}


async def test_a_new_session_under_a_deleted_id_is_stored_also_when_the_clock_was_set_back(core: Core) -> None:
    await core.save("a")
    await core.writer.write_round()
    await core.call("session.delete", session_id="a")
    core.clock.at_us -= 3_600_000_000
    saved = await core.save("a")
    assert saved["version"] > START_US
    await core.writer.write_round()
    assert core.memory.versions() == {"a": saved["version"]}
    assert not core.session("a").quarantined


async def test_versions_grow_over_a_deletion_the_store_never_heard_of(core: Core) -> None:
    await core.save("a")
    await core.turn("a")
    await core.call("session.delete", session_id="a")
    assert (await core.save("a"))["version"] > START_US + 1


# -- the server's own --------------------------------------------------------------------------------------------


async def test_ping_info_and_the_table() -> None:
    core = Core(reaper=ReaperConfig(grace_s=1.0))
    assert await core.call("server.ping") == {}
    info = await core.call("server.info")
    assert info["name"] == "callstated"
    assert info["store"] == "memory"
    assert parse_us(info["started_at"]) > START_US / 2
    assert {name.partition(".")[0] for name in VERBS} == {"session", "worker", "events", "server"}


async def test_flush_is_the_barrier(core: Core) -> None:
    for name in "abc":
        await core.save(name)
    core.writer.start()
    assert await core.call("server.flush", session_ids=["a"]) == {"flushed": 1, "unflushed": 0}
    assert await core.call("server.flush") == {"flushed": 0, "unflushed": 0}
    assert core.memory.versions().keys() == {"a", "b", "c"}
    core.memory.failure = down
    await core.turn("a")
    assert await core.call("server.flush", timeout_s=0.01) == {"flushed": 0, "unflushed": 1}
    await core.writer.stop()
