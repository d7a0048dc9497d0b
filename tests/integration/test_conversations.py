"""Real conversations, turn by turn through `hold`, read back equal from everywhere they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from callstate_client import SessionState, SidecarStore, connect
from callstate_sidecar.stores.redis import RedisStore
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries

CALLS = Path(__file__).parents[3] / "shared" / "data" / "calls.ndjson"

pytestmark = [
    pytest.mark.system,
    pytest.mark.asyncio(loop_factories=["uvloop"]),
    pytest.mark.skipif(not CALLS.exists(), reason="the conversations (calls.ndjson) are not beside the checkout"),
]

Said = dict[str, list[tuple[str, str, int]]]


def conversations() -> Said:
    """By call: role, content, and how long it took to say: 60 ms a character is a fair stand-in."""
    said: Said = {}
    for line in CALLS.read_text("utf-8").splitlines():
        call = json.loads(line)
        said[call["call_id"]] = [(t["role"], t["content"], 60 * len(t["content"])) for t in call["turns"]]
    return said


def told(state: SessionState) -> list[tuple[str, str, int]]:
    return [(turn.role, turn.content, turn.duration_ms) for turn in state.history]


async def live(store: SidecarStore, call_id: str, turns: list[tuple[str, str, int]]) -> SessionState:
    async with store.hold(SessionState(call_id, provider="sgd"), labels={"app": "test"}) as call:
        for role, content, duration_ms in turns:
            acknowledged = call.add_turn(role, content, duration_ms=duration_ms)
        await acknowledged
        return call.state.copy()


async def test_every_conversation_is_the_same_everywhere() -> None:
    said = conversations()
    assert len(said) >= 100
    with RedisServer(binaries()["valkey"]) as redis, Daemon(store=redis.url) as daemon:
        async with connect(daemon.socket) as store:
            for call_id, turns in said.items():
                held = await live(store, call_id, turns)
                assert told(held) == turns
            states = {call_id: await store.load(call_id) for call_id in said}
            for call_id, turns in said.items():
                state = states[call_id]
                assert told(state) == turns
                assert state.status == "ended"
                assert state.metrics.turn_count == len(turns)
                spoken = sum(ms for role, _, ms in turns if role == "user")
                assert state.metrics.user_speech_duration_ms == spoken
            await daemon.in_thread("kill")
            await daemon.in_thread("start")
            for call_id in said:
                assert await store.load(call_id) == states[call_id]
            await store.flush()
            shared = RedisStore.from_url(redis.url)
            for call_id in said:
                assert await shared.load(call_id) == states[call_id]
            await shared.close()
