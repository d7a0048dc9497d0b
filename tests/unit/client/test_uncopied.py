from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from callstate_client.memory import MemoryStore
from callstate_client.model import SessionState
from callstate_sidecar.stores.sqlite import SqliteStore


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_copying_a_unique_object_raises_with_the_remedy(take: Callable[[object], object]) -> None:
    async with MemoryStore() as store:
        hold = store.hold(SessionState("c1"))
        async with hold as call:
            turn = call.add_turn("user", "hello")
            for thing, instead in (
                (store, "connect()"), (hold, "hold() again"), (call, "hold(id)"), (turn, "await"),
            ):  # fmt: skip
                with pytest.raises(TypeError) as caught:
                    take(thing)
                assert type(thing).__name__ in str(caught.value)
                assert instead in str(caught.value)
            assert take(call.state), "a state is another matter"


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_a_store_by_itself_says_so_too(take: Callable[[object], object]) -> None:
    async with SqliteStore("/nonexistent/callstate.db") as store:
        with pytest.raises(TypeError, match="same URL or path"):
            take(store)
