"""What every SessionStore does, whatever is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from callstate_client.errors import (
    DocumentError,
    InvalidParamsError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
)
from callstate_client.model import Direction, Role, SessionState, Status, Turn
from callstate_client.store import HealthChecker, Namer, SessionStore

if TYPE_CHECKING:
    from conftest import Subject

LONG_AGO = datetime(2020, 2, 2, 2, 2, 2, tzinfo=UTC)


def a_call(session_id: str = "call-1", **fields: object) -> SessionState:
    defaults: dict[str, object] = {
        "provider": "twilio",
        "direction": Direction.INBOUND,
        "from_": "+15550001",
        "to": "+15550002",
        "status": Status.ACTIVE,
        "call_id": "CA1",
    }
    return SessionState(session_id, **(defaults | fields))  # type: ignore[arg-type]


def test_it_is_what_the_protocols_describe(store: SessionStore) -> None:
    assert isinstance(store, SessionStore)
    assert isinstance(store, HealthChecker)
    assert isinstance(store, Namer)
    assert store.name in ("memory", "redis", "sqlite", "sidecar")


async def test_a_loaded_state_is_the_saved_one(store: SessionStore) -> None:
    saved = a_call(created_at=LONG_AGO)
    await store.save(saved)
    loaded = await store.load("call-1")
    assert loaded == saved
    assert loaded.created_at == LONG_AGO
    assert loaded is not saved


async def test_saving_sets_updated_at_on_the_state(store: SessionStore) -> None:
    before = datetime.now(UTC)
    state = a_call(updated_at=LONG_AGO)
    await store.save(state)
    assert before <= state.updated_at <= datetime.now(UTC)
    assert (await store.load("call-1")).updated_at == state.updated_at


async def test_a_second_save_overwrites(store: SessionStore) -> None:
    await store.save(a_call(recovery_data={"step": 1}))
    await store.save(a_call(status=Status.ON_HOLD, provider="sip"))
    loaded = await store.load("call-1")
    assert (loaded.status, loaded.provider, loaded.recovery_data) == (Status.ON_HOLD, "sip", None)


async def test_loaded_and_saved_states_are_copies(store: SessionStore) -> None:
    state = a_call(recovery_data={"steps": ["greeting"]})
    await store.save(state)
    state.recovery_data["steps"].append("not saved")
    state.add_turn(Role.USER, "not saved")
    loaded = await store.load("call-1")
    loaded.recovery_data["steps"].append("not saved either")
    again = await store.load("call-1")
    assert again.recovery_data == {"steps": ["greeting"]}
    assert len(again.history) == 0


async def test_an_unknown_id_is_not_found(store: SessionStore) -> None:
    with pytest.raises(SessionNotFoundError):
        await store.load("nobody")
    with pytest.raises(SessionNotFoundError):
        await store.update_heartbeat("nobody")
    assert await store.list_active() == []


async def test_a_deleted_session_is_gone(store: SessionStore) -> None:
    await store.save(a_call())
    await store.save(a_call("call-2"))
    await store.delete("call-1")
    for gone in ("call-1", "nobody"):
        with pytest.raises(SessionNotFoundError):
            await store.delete(gone)
    with pytest.raises(SessionNotFoundError):
        await store.load("call-1")
    with pytest.raises(SessionNotFoundError):
        await store.update_heartbeat("call-1")
    assert await store.list_active() == ["call-2"]


async def test_a_deleted_session_may_come_again(store: SessionStore) -> None:
    await store.save(a_call(provider="sip"))
    await store.delete("call-1")
    await store.save(a_call(provider="twilio"))
    assert (await store.load("call-1")).provider == "twilio"
    assert await store.list_active() == ["call-1"]


async def test_every_status_but_ended_is_active(store: SessionStore) -> None:
    statuses = [Status.PENDING, Status.ACTIVE, Status.ON_HOLD, Status.TRANSFERRING, "a_word_of_ours", ""]
    for status in [*statuses, Status.ENDED]:
        await store.save(a_call(f"call-{status}", status=status))
    assert sorted(await store.list_active()) == sorted(f"call-{status}" for status in statuses)


async def test_an_ended_session_leaves_the_list_but_not_the_store(store: SessionStore) -> None:
    await store.save(a_call())
    await store.save(a_call("call-2"))
    await store.save(a_call(status=Status.ENDED))
    assert await store.list_active() == ["call-2"]
    assert (await store.load("call-1")).status == Status.ENDED


async def test_hundreds_of_sessions_are_all_listed_once(store: SessionStore) -> None:
    ids = [f"call-{i}" for i in range(700)]
    await asyncio.gather(*(store.save(a_call(session_id)) for session_id in ids))
    assert sorted(await store.list_active()) == sorted(ids)


async def test_an_expired_session_is_nowhere(expiring: Subject) -> None:
    store, expire = expiring.store, expiring.expire
    assert expire is not None
    await store.save(a_call())
    await store.save(a_call("call-2"))
    await expire("call-1")
    assert await store.list_active() == ["call-2"]
    with pytest.raises(SessionNotFoundError):
        await store.load("call-1")
    with pytest.raises(SessionNotFoundError):
        await store.update_heartbeat("call-1")
    await store.save(a_call())
    assert sorted(await store.list_active()) == ["call-1", "call-2"]


async def test_a_heartbeat_raises_updated_at_and_nothing_else(store: SessionStore) -> None:
    state = a_call(recovery_data={"x": "kept"})
    state.add_turn(Role.USER, "hello", 900)
    await store.save(state)
    saved = await store.load("call-1")
    before = datetime.now(UTC)
    await store.update_heartbeat("call-1")
    loaded = await store.load("call-1")
    # a beat is kept in milliseconds
    assert max(saved.updated_at, before - timedelta(milliseconds=1)) <= loaded.updated_at <= datetime.now(UTC)
    loaded.updated_at = saved.updated_at
    assert loaded == saved
    assert await store.list_active() == ["call-1"]


async def test_a_save_after_a_heartbeat_has_the_later_time(store: SessionStore) -> None:
    await store.save(a_call())
    await store.update_heartbeat("call-1")
    state = a_call()
    await store.save(state)
    assert (await store.load("call-1")).updated_at == state.updated_at


async def test_heartbeats_lose_no_concurrent_turn(store: SessionStore) -> None:
    state = a_call()
    await store.save(state)
    turns = 40

    async def talk() -> None:
        for i in range(turns):
            state.add_turn(Role.USER if i % 2 else Role.AGENT, f"turn {i}", 10)
            await store.save(state)
            assert len((await store.load("call-1")).history) == i + 1

    talking = asyncio.create_task(talk())
    send_heartbeats = 0
    while not talking.done() or send_heartbeats < turns:
        await asyncio.gather(*(store.update_heartbeat("call-1") for _ in range(4)))
        send_heartbeats += 4
    await talking
    loaded = await store.load("call-1")
    assert [turn.content for turn in loaded.history] == [f"turn {i}" for i in range(turns)]
    assert loaded.metrics.turn_count == turns


async def test_a_heartbeat_of_an_ended_session_says_so(store: SessionStore) -> None:
    await store.save(a_call(status=Status.ENDED))
    with pytest.raises(SessionEndedError):
        await store.update_heartbeat("call-1")
    assert await store.list_active() == []
    assert (await store.load("call-1")).status == Status.ENDED


async def test_history_and_metrics_come_back(store: SessionStore) -> None:
    state = a_call()
    state.add_turn(Role.AGENT, "Grüß Gott, how can I help? 📞", 1200, at=LONG_AGO)
    state.add_turn(Role.USER, 'a "quoted"\nline\\', 800)
    state.add_turn("tool", "", 0, extra={"name": "crm.lookup", "arguments": {"id": 7}})
    state.record_interruption()
    state.metrics.first_response_ms = 420
    state.metrics.average_response_ms = 380
    await store.save(state)
    loaded = await store.load("call-1")
    assert loaded.history == state.history
    assert loaded.metrics == state.metrics
    assert loaded.metrics.turn_count == 3
    assert loaded.metrics.user_speech_duration_ms == 800
    assert loaded.metrics.agent_speech_duration_ms == 1200
    assert loaded.metrics.interruption_count == 1
    assert loaded.history[0].timestamp == LONG_AGO


@pytest.mark.parametrize("data", [{"node": "billing", "slots": {"date": None, "n": 1.5}}, {"x": [1, [2, [3]]]}])
async def test_recovery_data_comes_back(store: SessionStore, data: object) -> None:
    await store.save(a_call(recovery_data=data))
    assert (await store.load("call-1")).recovery_data == data


@pytest.mark.parametrize("data", [[1], "token", 7, True])
async def test_recovery_data_that_is_not_an_object_is_refused(store: SessionStore, data: object) -> None:
    with pytest.raises(DocumentError, match="recovery_data"):
        await store.save(a_call(recovery_data=data))
    with pytest.raises(SessionNotFoundError):
        await store.load("call-1")


@pytest.mark.parametrize("name", ["Status", "ID", "historY", "recovery_Data", "\u017ftatus"])
async def test_members_that_go_takes_for_ours_are_refused(store: SessionStore, name: str) -> None:
    with pytest.raises(DocumentError, match="spelling"):
        await store.save(a_call(extra={name: 1}))
    state = a_call()
    state.metrics.extra["Turn_Count"] = 2
    with pytest.raises(DocumentError, match="spelling"):
        await store.save(state)
    with pytest.raises(DocumentError, match="spelling"):
        await store.save(a_call(history=[Turn(Role.USER, "hi", extra={"duration_MS": 2})]))
    with pytest.raises(SessionNotFoundError):
        await store.load("call-1")


async def test_further_members_do_not_replace_defined_ones(store: SessionStore) -> None:
    for extra in ({"status": "ended"}, {"id": "call-2"}, {"history": []}):
        with pytest.raises(DocumentError, match="of its own"):
            await store.save(a_call(extra=extra))
    state = a_call()
    state.metrics.extra["turn_count"] = 2
    with pytest.raises(DocumentError, match="of its own"):
        await store.save(state)
    with pytest.raises(DocumentError, match="of its own"):
        await store.save(a_call(history=[Turn(Role.USER, "hi", extra={"role": "agent"})]))
    assert await store.list_active() == []


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("provider", 5), ("provider", None), ("status", 5), ("call_id", 5), ("to", ["+1"]),
        ("metrics.turn_count", 2**63), ("metrics.turn_count", 1.5), ("metrics.first_response_ms", "x"),
        ("turn.role", 5), ("turn.content", None), ("turn.duration_ms", 1.5), ("turn.duration_ms", 2**63),
    ],
)  # fmt: skip
async def test_what_nobody_could_read_is_not_saved(store: SessionStore, member: str, value: object) -> None:
    await store.save(a_call(to="+3"))
    state = a_call(history=[Turn(Role.USER, "hi")])
    holder, _, name = member.rpartition(".")
    setattr({"": state, "metrics": state.metrics, "turn": state.history[0]}[holder], name, value)
    with pytest.raises((DocumentError, InvalidParamsError), match="Expected"):
        await store.save(state)
    assert (await store.load("call-1")).to == "+3"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), b"x", {1}, LONG_AGO, {7: "x"}], ids=repr)
async def test_what_json_would_change_is_not_saved(store: SessionStore, value: object) -> None:
    with_metric = a_call()
    with_metric.metrics.extra["a"] = value
    for state in (
        a_call(recovery_data={"a": value}),
        a_call(extra={"a": [value]}),
        with_metric,
        a_call(history=[Turn(Role.USER, "hi", extra={"a": value})]),
    ):
        with pytest.raises(DocumentError):
            await store.save(state)
    assert await store.list_active() == []


@pytest.mark.parametrize("session_id", [None, 5, b"x", "a\ud800"])
async def test_what_is_no_text_is_no_id(store: SessionStore, session_id: str) -> None:
    with pytest.raises(InvalidParamsError, match="session id"):
        await store.save(a_call(session_id))


async def test_unknown_members_survive(store: SessionStore) -> None:
    state = a_call(extra={"tenant": {"id": 9}})
    state.metrics.extra["sentiment"] = -0.25
    state.add_turn(Role.USER, "hi", extra={"confidence": 0.5})
    await store.save(state)
    loaded = await store.load("call-1")
    assert loaded.extra == {"tenant": {"id": 9}}
    assert loaded.metrics.extra == {"sentiment": -0.25}
    assert loaded.history[0].extra == {"confidence": 0.5}


async def test_a_state_loaded_in_part_is_not_saved(store: SessionStore) -> None:
    await store.save(a_call(provider="sip"))
    part = a_call()
    part.history_from = 3
    with pytest.raises(DocumentError, match="in part"):
        await store.save(part)
    assert (await store.load("call-1")).provider == "sip"


async def test_saving_none_does_nothing(store: SessionStore) -> None:
    await store.save(None)
    assert await store.list_active() == []


async def test_ping_returns(store: SessionStore) -> None:
    assert isinstance(store, HealthChecker)
    await store.ping()


OPERATIONS: dict[str, Callable[[SessionStore], Awaitable[object]]] = {
    "save": lambda store: store.save(a_call()),
    "save(None)": lambda store: store.save(None),
    "load": lambda store: store.load("call-1"),
    "delete": lambda store: store.delete("call-1"),
    "list_active": lambda store: store.list_active(),
    "update_heartbeat": lambda store: store.update_heartbeat("call-1"),
    "ping": lambda store: store.ping(),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_closed_store_refuses(store: SessionStore, operation: str) -> None:
    await store.save(a_call())
    await store.close()
    with pytest.raises(StoreClosedError):
        await OPERATIONS[operation](store)


async def test_a_store_may_be_closed_twice(store: SessionStore) -> None:
    await store.close()
    await store.close()


async def test_a_store_never_used_may_be_closed(store: SessionStore) -> None:
    await store.close()
    with pytest.raises(StoreClosedError):
        await store.list_active()
