"""Held calls while the daemon is stopped, killed and started again: nothing fails, is lost or doubled."""

from __future__ import annotations

import asyncio
import signal

import pytest

from callstate_client import SessionState, SidecarStore, connect
from support.daemon import Daemon

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(120)]

CALLS = 8


async def talk(store: SidecarStore, number: int, over: asyncio.Event) -> list[str]:
    """Hold a call until told, each word awaited; gives what was acknowledged, in order."""
    said: list[str] = []
    async with store.hold(SessionState(f"c{number}"), heartbeat_timeout_s=30) as call:
        while not over.is_set():
            content = f"{number}-{len(said)}"
            await call.add_turn("user", content, duration_ms=10)
            said.append(content)
            if len(said) % 10 == 0:
                await call.record_interruption()
            if len(said) % 25 == 0:
                await call.update(status="on_hold" if len(said) % 50 else "active")
    return said


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_calls_go_on_through_stops_and_kills(durability: str) -> None:
    with Daemon("--durability", durability, "--set", "journal.checkpoint_min_bytes=65536") as daemon:
        async with connect(daemon.socket) as store:
            over = asyncio.Event()
            calls = [asyncio.ensure_future(talk(store, number, over)) for number in range(CALLS)]
            for way in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
                before = (await store.stats())["requests"].get("session.add_turn", 0)
                while (await store.stats())["requests"].get("session.add_turn", 0) < before + 200:
                    await asyncio.sleep(0.01)  # the counter is in another process: there is no event
                await asyncio.to_thread(daemon.end_with, way)
                await daemon.in_thread("start")
            over.set()
            for number, said in enumerate(await asyncio.gather(*calls)):
                record = await store.get(f"c{number}")
                assert [turn.content for turn in record.state.history] == said
                assert record.state.metrics.turn_count == len(said)
                assert record.state.metrics.interruption_count == len(said) // 10
                assert (record.state.status, record.ended_reason) == ("ended", "completed")
