from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from callstate_client import (
    Clock,
    ConflictError,
    DocumentError,
    FencedError,
    InvalidParamsError,
    MemoryStore,
    MethodNotFoundError,
    SessionEndedError,
    SessionMetrics,
    SessionNotFoundError,
    SessionState,
    StoreClosedError,
    TooLargeError,
    Turn,
)
from callstate_client import protocol as p

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    async with MemoryStore(Clock(START)) as store:
        yield store


def a_call(session_id: str = "c1", **fields: Any) -> SessionState:
    return SessionState(session_id, **({"provider": "sip", "status": "active", "created_at": START} | fields))


async def ids(store: MemoryStore, **filters: Any) -> list[str]:
    return [record.state.id async for record in store.sessions(**filters)]


# -- keeping ------------------------------------------------------------------------------------------------


async def test_copies_go_in_and_come_out(store: MemoryStore) -> None:
    state = a_call(recovery_data={"a": [1]})
    state.add_turn("user", "hello", extra={"tags": ["x"]})
    await store.save(state)
    state.recovery_data["a"].append(2)
    state.history[0].extra["tags"].append("y")
    loaded = await store.load("c1")
    assert (loaded.recovery_data, loaded.history[0].extra) == ({"a": [1]}, {"tags": ["x"]})
    loaded.history.clear()
    assert len((await store.load("c1")).history) == 1


async def test_save_sets_updated_at_and_gives_growing_versions(store: MemoryStore) -> None:
    state = a_call()
    first = await store.save(state)
    assert state.updated_at == START
    second = await store.save(state)  # the clock stands still
    store.clock.advance(20)
    third = await store.save(state)
    assert first is not None
    assert second == first + 1
    assert third == int((START + timedelta(seconds=20)).timestamp() * 1e6)
    assert state.updated_at == START + timedelta(seconds=20)


async def test_saving_nothing_does_nothing(store: MemoryStore) -> None:
    assert await store.save(None) is None
    assert store.count() == 0


async def test_if_version(store: MemoryStore) -> None:
    with pytest.raises(ConflictError) as caught:
        await store.save(a_call(), if_version=5)
    assert caught.value.version == 0
    version = await store.save(a_call(), if_version=0)
    for wrong in (0, (version or 0) - 1):
        with pytest.raises(ConflictError) as caught:
            await store.save(a_call(), if_version=wrong)
        assert caught.value.version == version
        with pytest.raises(ConflictError):
            await store.update("c1", wrong, status="on_hold")
    assert await store.save(a_call(), if_version=version)


async def test_a_part_is_not_saved_over_the_whole(store: MemoryStore) -> None:
    state = a_call(history=[Turn("user", str(n)) for n in range(5)])
    await store.save(state)
    for history in (2, 0, "none"):
        part = await store.load("c1", history)
        assert part.history == (state.history[3:] if history == 2 else [])
        with pytest.raises(DocumentError, match="in part"):
            await store.save(part)
        with pytest.raises(DocumentError, match="in part"):
            await store.save(part.copy())
    for history in (5, 6, "all"):
        assert await store.save(await store.load("c1", history))


async def test_get_tells_what_is_beside_the_document(store: MemoryStore) -> None:
    version = await store.save(a_call(), labels={"app": "sales"})
    await store.add_turn("c1", "user", "one")
    version = await store.add_turn("c1", "agent", "two")
    record = await store.get("c1", 1)
    assert (record.version, record.labels, record.turn_count, record.history_from) == (
        version, {"app": "sales"}, 2, 1,
    )  # fmt: skip
    assert (record.ended_reason, record.owner, record.epoch) == (None, "worker-1", 0)
    await store.save(await store.load("c1"))
    assert (await store.get("c1")).labels == {"app": "sales"}  # kept where left out


async def test_delete_twice(store: MemoryStore) -> None:
    await store.save(a_call())
    await store.delete("c1")
    with pytest.raises(SessionNotFoundError):
        await store.delete("c1")
    assert store.count() == 0
    with pytest.raises(SessionNotFoundError):
        await store.load("c1")


# -- the small mutations --------------------------------------------------------------------------------------


async def test_turns(store: MemoryStore) -> None:
    await store.save(a_call())
    await store.add_turn("c1", "user", "hello", 900, at=START, extra={"confidence": 0.9})
    await store.add_turn("c1", "agent", "hi, how", 500, at=START)
    await store.amend_last_turn("c1", content="hi", duration_ms=200, extra={"interrupted": True})
    await store.record_interruption("c1")
    state = await store.load("c1")
    assert state.history == [
        Turn("user", "hello", timestamp=START, duration_ms=900, extra={"confidence": 0.9}),
        Turn("agent", "hi", timestamp=START, duration_ms=200, extra={"interrupted": True}),
    ]
    assert state.metrics == SessionMetrics(
        turn_count=2, interruption_count=1, user_speech_duration_ms=900, agent_speech_duration_ms=500
    )


async def test_there_must_be_a_turn_to_amend(store: MemoryStore) -> None:
    await store.save(a_call())
    with pytest.raises(ConflictError):
        await store.amend_last_turn("c1", content="x")


async def test_update_is_a_merge_patch(store: MemoryStore) -> None:
    await store.save(a_call(recovery_data={"a": 1, "b": {"c": 2, "d": 3}}, extra={"campaign": 7}))
    await store.add_turn("c1", "user", "x")
    await store.update(
        "c1",
        status="on_hold",
        from_="+1",
        extra={"campaign": None, "seen": [1]},
        created_at=START - timedelta(days=1),
        recovery_data={"a": None, "b": {"c": 4}},
        metrics={"first_response_ms": 310},
    )
    state = await store.load("c1")
    assert (state.status, state.from_, state.extra) == ("on_hold", "+1", {"seen": [1]})
    assert state.recovery_data == {"b": {"c": 4, "d": 3}}
    assert state.created_at == START - timedelta(days=1)
    assert (state.metrics.first_response_ms, state.metrics.turn_count) == (310, 1)
    assert len(state.history) == 1


@pytest.mark.parametrize("name", ["id", "history", "updated_at"])
async def test_forbidden_members_can_not_be_patched(store: MemoryStore, name: str) -> None:
    await store.save(a_call())
    with pytest.raises(InvalidParamsError) as caught:
        await store.update("c1", **{name: "x"})
    assert caught.value.path == f"$.params.set.{name}"


async def test_a_bad_change_changes_nothing(store: MemoryStore) -> None:
    await store.save(a_call())
    await store.add_turn("c1", "user", "x")
    before = await store.get("c1")
    for change in (
        {"status": 5},
        {"status": "x" * 65},
        {"created_at": "yesterday"},
        {"metrics": {"turn_count": "x"}},
    ):
        with pytest.raises(InvalidParamsError):
            await store.update("c1", **change)
    for extra in ({"timestamp": "yesterday"}, {"role": 3}):
        with pytest.raises(DocumentError):
            await store.amend_last_turn("c1", extra=extra)
    assert await store.get("c1") == before


async def test_a_missing_session_is_not_found(store: MemoryStore) -> None:
    for ask in (
        store.load("c1"),
        store.get("c1"),
        store.update_heartbeat("c1"),
        store.add_turn("c1", "user", "x"),
        store.amend_last_turn("c1", content="x"),
        store.record_interruption("c1"),
        store.update("c1", status="x"),
        store.end("c1"),
    ):
        with pytest.raises(SessionNotFoundError):
            await ask


async def test_an_op_is_done_once(store: MemoryStore) -> None:
    await store.save(a_call())

    async def add(op: str) -> bytes:
        turn = msgspec.Raw(b'{"role":"user","content":"x"}')
        return await store.request("session.add_turn", p.AddTurnParams(session_id="c1", turn=turn, op=op))

    first = await add("op-0")
    assert await add("op-0") == first
    for n in range(1, 16):
        await add(f"op-{n}")
    assert await add("op-0") == first  # the sixteenth last
    await add("op-16")
    assert await add("op-0") != first
    state = await store.load("c1")
    assert len(state.history) == 18
    assert state.history[0].timestamp == START  # a turn without a time is now


# -- ending ---------------------------------------------------------------------------------------------------


async def test_end(store: MemoryStore) -> None:
    await store.save(a_call())
    version = await store.end("c1", "caller_hangup", detail={"cause": 16})
    record = await store.get("c1")
    assert (record.state.status, record.ended_reason, record.version) == ("ended", "caller_hangup", version)
    assert await store.end("c1", "again") == version
    assert (await store.get("c1")).ended_reason == "caller_hangup"
    with pytest.raises(SessionEndedError) as caught:
        await store.update_heartbeat("c1")
    assert caught.value.reason == "caller_hangup"
    assert caught.value.ended_at == "2026-01-02T03:04:05Z"


async def test_a_call_ended_by_its_worker_takes_late_transcripts_and_can_be_revived(store: MemoryStore) -> None:
    await store.save(a_call())
    await store.end("c1")
    await store.add_turn("c1", "user", "bye")
    assert (await store.get("c1")).ended_reason == "completed"
    await store.save(a_call(status="active"))
    assert (await store.get("c1")).ended_reason is None
    await store.update_heartbeat("c1")


async def test_a_save_may_end(store: MemoryStore) -> None:
    await store.save(a_call(status="ended"))
    assert (await store.get("c1")).ended_reason == "completed"
    assert await store.list_active() == []


# -- time -------------------------------------------------------------------------------------------------------


async def test_silence_then_grace_then_reaped_then_forgotten(store: MemoryStore) -> None:
    await store.save(a_call())
    store.clock.advance(10)
    await store.add_turn("c1", "user", "hello")
    store.clock.advance(29.9)
    assert (await store.stats())["suspects"] == 0
    store.clock.advance(0.2)
    assert (await store.stats())["suspects"] == 1
    assert await store.list_active() == ["c1"]
    store.clock.advance(29.9)
    record = await store.get("c1")
    assert (record.state.status, record.ended_reason) == ("ended", "heartbeat_timeout")
    assert record.state.updated_at == START + timedelta(seconds=10)
    assert [turn.content for turn in record.state.history] == ["hello"]
    assert await store.list_active() == []
    for late in (
        store.update_heartbeat("c1"),
        store.add_turn("c1", "user", "x"),
        store.save(a_call()),
        store.update("c1", status="active"),
        store.record_interruption("c1"),
    ):
        with pytest.raises(SessionEndedError) as caught:
            await late
        assert caught.value.reason == "heartbeat_timeout"
        assert caught.value.ended_at == "2026-01-02T03:05:15Z"
    store.clock.advance(299.9)
    assert store.count() == 1
    store.clock.advance(0.1)
    assert store.count() == 0


async def test_a_beat_or_a_mutation_is_life(store: MemoryStore) -> None:
    await store.save(a_call())
    for _ in range(5):
        store.clock.advance(45)  # a suspect each time
        await store.update_heartbeat("c1")
        store.clock.advance(29)
        await store.record_interruption("c1")
    assert (await store.stats())["suspects"] == 0
    assert await store.list_active() == ["c1"]


async def test_a_load_tells_the_last_beat(store: MemoryStore) -> None:
    await store.save(a_call())
    store.clock.advance(7)
    await store.update_heartbeat("c1")
    assert (await store.load("c1")).updated_at == START + timedelta(seconds=7)


async def test_a_timeout_of_its_own(store: MemoryStore) -> None:
    await store.save(a_call("short"), heartbeat_timeout_s=2)
    await store.save(a_call("long"), heartbeat_timeout_s=1000)
    await store.save(a_call("usual"))
    store.clock.advance(32)
    assert await store.list_active() == ["long", "usual"]
    store.clock.advance(28)
    assert await store.list_active() == ["long"]


async def test_a_maximal_duration(store: MemoryStore) -> None:
    await store.save(a_call(), max_duration_s=100)
    for _ in range(9):
        store.clock.advance(10)
        await store.update_heartbeat("c1")
    store.clock.advance(10)
    assert (await store.get("c1")).ended_reason == "max_duration"


async def test_one_late_sweep_has_the_effect_of_many(store: MemoryStore) -> None:
    await store.save(a_call())
    store.clock.advance(359)
    assert (await store.get("c1")).ended_reason == "heartbeat_timeout"
    store.clock.advance(1)
    assert store.count() == 0


async def test_a_clock_of_the_systems_can_be_moved_too() -> None:
    store = MemoryStore()
    await store.save(a_call())
    store.clock.advance(61)
    assert await store.list_active() == []
    with pytest.raises(ValueError, match="back"):
        store.clock.advance(-1)


# -- many ---------------------------------------------------------------------------------------------------------


async def test_filters(store: MemoryStore) -> None:
    await store.save(a_call("a", provider="sip", call_id="1"), labels={"app": "sales", "lang": "de"})
    await store.save(a_call("b", provider="twilio", status="on_hold"), labels={"app": "sales"})
    await store.save(a_call("c"))
    await store.end("c")
    store.clock.advance(5)
    await store.save(a_call("d"))
    await store.end("d")
    assert await ids(store) == ["a", "b", "c", "d"]
    assert await ids(store, status="on_hold") == ["b"]
    assert await ids(store, status="ended") == ["c", "d"]
    assert await ids(store, provider="sip") == ["a", "c", "d"]
    assert await ids(store, call_id="1") == ["a"]
    assert await ids(store, owner="w") == []
    assert await ids(store, labels={"app": "sales"}) == ["a", "b"]
    assert await ids(store, labels={"app": "sales", "lang": "de"}) == ["a"]
    assert await ids(store, ended_since=START) == ["c", "d"]
    assert await ids(store, ended_since=START + timedelta(seconds=1)) == ["d"]


async def test_all_pages_are_walked(store: MemoryStore) -> None:
    many = [f"c{n}" for n in range(2001)]  # the third page has one
    for session_id in many:
        await store.save(a_call(session_id))
    assert await ids(store) == many
    assert await store.list_active() == many
    assert store.count() == 2001


async def test_a_listed_session_is_a_part(store: MemoryStore) -> None:
    await store.save(a_call(history=[Turn("user", "x")]))
    (record,) = [record async for record in store.sessions()]
    assert (record.turn_count, record.history_from, record.state.history) == (1, 1, [])


# -- what is refused, and words of the protocol -----------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", "a b", "{x}", "@x", "active", "x" * 257, 5, None])
async def test_bad_ids(store: MemoryStore, bad: Any) -> None:
    for ask in (store.load(bad), store.update_heartbeat(bad), store.end(bad), store.save(SessionState(bad))):
        with pytest.raises(InvalidParamsError):
            await ask


@pytest.mark.parametrize(
    "state",
    [
        a_call(provider="x" * 65),
        a_call(status="ü" * 33),
        a_call(history=[Turn("x" * 65, "")]),
        a_call(metrics=SessionMetrics(turn_count="1")),  # type: ignore[arg-type]
        a_call(to=5),
    ],
)
async def test_bad_states(store: MemoryStore, state: SessionState) -> None:
    with pytest.raises(InvalidParamsError):
        await store.save(state)
    assert store.count() == 0


@pytest.mark.parametrize(
    "labels", [{str(n): "" for n in range(17)}, {"": "x"}, {"x" * 65: ""}, {"x": "y" * 257}, {"x": 1}]
)
async def test_bad_labels(store: MemoryStore, labels: Any) -> None:
    with pytest.raises(InvalidParamsError):
        await store.save(a_call(), labels=labels)


@pytest.mark.parametrize("seconds", [0, -1, "x"])
async def test_bad_times(store: MemoryStore, seconds: Any) -> None:
    for name in ("heartbeat_timeout_s", "max_duration_s"):
        with pytest.raises(InvalidParamsError):
            await store.save(a_call(), **{name: seconds})


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [deep(57), float("nan"), float("-inf"), 2**63, {"x": [-(2**63) - 1]}])
async def test_a_value_that_can_not_be_stored_is_refused_by_name(store: MemoryStore, value: Any) -> None:
    await store.save(a_call("c2"))
    state = a_call()
    state.add_turn("user", "x", extra={"odd": value})
    for ask in (
        store.save(a_call(recovery_data={"x": value})),
        store.save(a_call(extra={"odd": value})),
        store.save(a_call(metrics=SessionMetrics(extra={"odd": value}))),
        store.save(state),
        store.update("c2", extra={"odd": value}),
        store.add_turn("c2", "user", "x", extra={"odd": value}),
        store.end("c2", detail=value),
    ):
        with pytest.raises(DocumentError):
            await ask


async def test_values_at_the_limit_are_stored(store: MemoryStore) -> None:
    kept = {"x": [deep(54), 2**63 - 1, -(2**63), 1.5]}
    await store.save(a_call(recovery_data=kept))
    assert (await store.load("c1")).recovery_data == kept


async def test_a_line_too_long(store: MemoryStore) -> None:
    with pytest.raises(TooLargeError):
        await store.save(a_call(recovery_data={"x": "x" * p.LINE_BYTES}))


async def test_a_session_grows_by_turns_up_to_its_limit(store: MemoryStore) -> None:
    await store.save(a_call())
    for _ in range(8):
        await store.add_turn("c1", "user", "x" * 1_000_000)
    with pytest.raises(TooLargeError):
        await store.add_turn("c1", "user", "x" * 1_000_000)
    assert len((await store.load("c1")).history) == 8


async def ask(store: MemoryStore, params: p.Params) -> bytes:
    verbs = {
        p.AddTurnParams: "add_turn", p.LoadParams: "load", p.HeartbeatParams: "heartbeat", p.SaveParams: "save",
        p.UpdateParams: "update", p.ListActiveParams: "list_active", p.EndParams: "end", p.DeleteParams: "delete",
    }  # fmt: skip
    return await store.request(f"session.{verbs[type(params)]}", params)


@pytest.mark.parametrize(
    ("params", "path"),
    [
        (p.AddTurnParams(session_id="c1"), "$.params"),
        (p.AddTurnParams(session_id="c1", turns=msgspec.Raw(b"{}")), "$.params.turns"),
        (p.AddTurnParams(session_id="c1", turns=msgspec.Raw(b"[{},3]")), "$.params.turns[1]"),
        (p.AddTurnParams(session_id="c1", turn=msgspec.Raw(b'{"role":3}')), "$.params.turn.role"),
        (
            p.SaveParams(session=msgspec.Raw(b'{"id":"c1","metrics":{"turn_count":"1"}}')),
            "$.params.session.metrics.turn_count",
        ),
        (
            p.SaveParams(session=msgspec.Raw(b'{"id":"c1","history":[{"timestamp":"x"}]}')),
            "$.params.session.history[0].timestamp",
        ),
        (p.LoadParams(session_id=5), "$.params.session_id"),  # type: ignore[arg-type]
        (p.AddTurnParams(session_id="c1", turn=msgspec.Raw(b"{}"), op=""), "$.params.op"),
        (p.HeartbeatParams(), "$.params"),
        (p.LoadParams(session_id="c1", history="some"), "$.params.history"),
        (p.ListActiveParams(scope="planet"), "$.params.scope"),
        (p.ListActiveParams(cursor="x"), "$.params.cursor"),
        (p.UpdateParams(session_id="c1", set=msgspec.Raw(b"[]")), "$.params.set"),
        (p.EndParams(session_id="c1", reason=""), "$.params.reason"),
        (p.SaveParams(session=msgspec.Raw(b'{"id":"active"}')), "$.params.session.id"),
        (p.SaveParams(session=msgspec.Raw(b"[]")), "$.params.session"),
    ],
)
async def test_bad_params_name_the_place(store: MemoryStore, params: p.Params, path: str) -> None:
    await store.save(a_call())
    with pytest.raises(InvalidParamsError) as caught:
        await ask(store, params)
    assert caught.value.path == path


async def test_a_wrong_epoch_is_fenced_without_an_owner(store: MemoryStore) -> None:
    await store.save(a_call())
    for params in (p.EndParams(session_id="c1", epoch=3), p.DeleteParams(session_id="c1", epoch=3)):
        with pytest.raises(FencedError):
            await ask(store, params)
    assert await store.list_active() == ["c1"]


async def test_a_save_without_history_keeps_it(store: MemoryStore) -> None:
    await store.save(a_call(history=[Turn("user", "x")]))
    await ask(store, p.SaveParams(session=msgspec.Raw(b'{"id":"c1","status":"on_hold"}')))
    state = await store.load("c1")
    assert (state.status, len(state.history)) == ("on_hold", 1)
    await ask(store, p.SaveParams(session=msgspec.Raw(b'{"id":"c1","history":null}')))
    assert (await store.load("c1")).history == []


async def test_beats_of_several(store: MemoryStore) -> None:
    await store.save(a_call("a"))
    await store.save(a_call("b"))
    await store.end("b")
    line = await ask(store, p.HeartbeatParams(session_ids=["a", "b", "c"]))
    assert p.decode_heartbeat(line) == p.HeartbeatResult(missing=["c"], ended=["b"])


async def test_an_unknown_method(store: MemoryStore) -> None:
    with pytest.raises(MethodNotFoundError):
        await store.request("session.sing")


async def test_the_store_itself(store: MemoryStore) -> None:
    await store.save(a_call())
    await store.ping()
    assert (await store.info())["store"] == "memory"
    assert (await store.stats())["sessions"] == {"active": 1}
    assert (await store.flush()).flushed == 1
    assert (await store.flush(["c1"])).unflushed == 0


async def test_closed_is_closed(store: MemoryStore) -> None:
    await store.save(a_call())
    await store.close()
    await store.close()
    for ask in (
        store.save(None),
        store.save(a_call()),
        store.load("c1"),
        store.delete("c1"),
        store.list_active(),
        store.update_heartbeat("c1"),
        store.ping(),
        store.stats(),
        ids(store),
        store.hold("c1").__aenter__(),
    ):
        with pytest.raises(StoreClosedError):
            await ask
