from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

import pytest

from callstate_client import MemoryStore, SessionState, Turn
from callstate_client.calls.view import StateView

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def state() -> SessionState:
    return SessionState("c1", provider="sip", history=[Turn("user", "x", START)], created_at=START)


def test_it_shows_what_is_there_now(state: SessionState) -> None:
    view = StateView(state)
    assert isinstance(view, SessionState)
    state.status = "on_hold"
    state.add_turn("agent", "y")
    assert (view.status, len(view.history), view.metrics.turn_count, view.created_at) == ("on_hold", 2, 1, START)
    assert view == state
    assert state == view
    assert view.to_json() == state.to_json()
    assert repr(view) == repr(state)
    for copied in (view.copy(), copy.copy(view), copy.deepcopy(view), pickle.loads(pickle.dumps(view))):  # noqa: S301 - ours
        assert copied == state
        copied.status = "active"
    assert state.status == "on_hold"


@pytest.mark.parametrize("name", ["status", "from_", "recovery_data", "updated_at", "nonsense"])
def test_assigning_to_the_view_names_the_method_to_use(state: SessionState, name: str) -> None:
    before = state.to_json()
    view = StateView(state)
    with pytest.raises(AttributeError, match=rf"use call\.update\({name}="):
        setattr(view, name, "x")
    with pytest.raises(AttributeError):
        delattr(view, name)
    assert state.to_json() == before


def test_turns_are_the_calls_to_add(state: SessionState) -> None:
    view = StateView(state)
    for add in (
        lambda: view.add_turn("user", "y"),
        lambda: view.append_turn(Turn()),
        lambda: setattr(view, "history", []),
    ):
        with pytest.raises(AttributeError, match=r"call\.add_turn"):
            add()
    with pytest.raises(AttributeError, match=r"call\.record_interruption\(\)"):
        view.record_interruption()
    assert (len(state.history), state.metrics.turn_count) == (1, 0)


async def test_a_calls_state_is_one(state: SessionState) -> None:
    async with MemoryStore() as store, store.hold(state) as call:
        with pytest.raises(AttributeError, match=r"call\.update\(status="):
            call.state.status = "active"
        await call.update(status="active")
        assert call.state.status == "active"
        await store.save(call.state)
        assert (await store.load("c1")).status == "active"
        with pytest.raises(AttributeError):
            call.state = state  # type: ignore[misc]
