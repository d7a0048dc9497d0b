"""What the adapters of frameworks write into a call, whose callbacks nobody awaits."""

from __future__ import annotations

from math import inf, nan

import pytest

from callstate_client import MemoryStore, SessionState
from callstate_client.adapters.recorder import Recorder


@pytest.mark.parametrize("odd", [nan, inf, -inf])
async def test_a_turn_is_kept_without_times_that_are_none(odd: float) -> None:
    async with MemoryStore() as store, store.hold(SessionState("c1")) as call:
        turn = Recorder(call).said("agent", "hello", odd, response_ms=odd)
        assert turn is not None
        await turn
        assert (turn.turn.content, turn.turn.duration_ms, turn.turn.response_ms) == ("hello", 0, None)


async def test_times_are_whole_and_not_negative() -> None:
    async with MemoryStore() as store, store.hold(SessionState("c1")) as call:
        recorder = Recorder(call)
        turns = [recorder.said("agent", "hello", 1.6, response_ms=-3), recorder.said("user", "hi", -1)]
        assert [turn.turn.duration_ms for turn in turns if turn is not None] == [2, 0]
        assert call.state.history[0].response_ms == 0


async def test_what_is_refused_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with MemoryStore() as store, store.hold(SessionState("c1")) as call:
        assert Recorder(call).said("agent", "hello", extra={"odd": object()}) is None
        assert "c1: not kept" in caplog.text
