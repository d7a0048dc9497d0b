from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from callstate_client import CallHandle, MemoryStore, SessionState
from callstate_client.transport.loop_affinity import check_loop

MUTATIONS: dict[str, Callable[[CallHandle], Any]] = {
    "add_turn": lambda call: call.add_turn("user", "x"),
    "amend_last_turn": lambda call: call.amend_last_turn(content="y"),
    "record_interruption": lambda call: call.record_interruption(),
    "update": lambda call: call.update(status="on_hold"),
    "end": lambda call: call.end(),
}


async def test_the_loop_that_runs() -> None:
    check_loop(asyncio.get_running_loop(), "this")


def test_no_loop() -> None:
    loop = asyncio.new_event_loop()
    with pytest.raises(RuntimeError, match="this belongs to the event loop"):
        check_loop(loop, "this")
    loop.close()


@pytest.mark.parametrize("in_a_loop", [False, True])
@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_call_from_another_thread_changes_nothing(name: str, in_a_loop: bool) -> None:
    async with MemoryStore() as store, store.hold(SessionState("c1")) as call:
        await call.add_turn("user", "before")
        before = call.state.to_json()

        async def mutate() -> None:
            MUTATIONS[name](call)

        def elsewhere() -> None:
            if in_a_loop:
                asyncio.run(mutate())
            else:
                MUTATIONS[name](call)

        with pytest.raises(RuntimeError, match="c1 belongs to the event loop"):
            await asyncio.to_thread(elsewhere)
        assert (call.state.to_json(), call.ended, call.unacknowledged) == (before, False, 0)
