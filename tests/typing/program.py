"""A program as its users write them: mypy --strict and pyright have nothing to say of it. It is never run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import assert_type

import msgspec

from callstate_client import (
    CallHandle,
    CallstateError,
    CallStore,
    Event,
    MemoryStore,
    Record,
    SessionMetrics,
    SessionState,
    Status,
    Turn,
    TurnHandle,
    connect,
    sync,
)


class HangupError(Exception):
    """The caller did."""


class Recovery(msgspec.Struct):
    """What it takes to go on."""

    node: str
    item: int = 0


@dataclass
class Agent:
    """Talks."""

    store: CallStore

    async def answer(self, call_id: str) -> None:
        """One call."""
        state = SessionState(id=call_id, provider="twilio", from_="+15550100", to="+15550199")
        async with self.store.hold(
            state, labels={"app": "sales"}, end_on=HangupError, cancel_on_lost=True, watchdog_s=10
        ) as call:
            assert_type(call, CallHandle)
            call.add_turn("user", "hello", duration_ms=900)
            spoken = call.add_turn("agent", "how are you today", extra={"voice": "a"})
            spoken.amend(content="how are", extra={"interrupted": True})
            call.amend_last_turn(role="agent", content="how")
            call.record_interruption()
            call.update(status=Status.ON_HOLD, recovery_data=Recovery("menu"))
            call.alive()
            version: int = await spoken
            assert_type(await call.update(labels={"app": "support"}, metrics=SessionMetrics()), int)
            recovered = call.recovery(Recovery)
            assert_type(recovered, Recovery | None)
            lost: CallstateError | None = call.lost
            assert version > 0
            assert lost is None or call.state.status
            await call.end("done")

    async def go_on(self) -> list[TurnHandle]:
        """What others have left."""
        handles: list[TurnHandle] = []
        async for call in self.store.recover(labels={"app": "sales"}):
            async with call:
                handle: TurnHandle = call.add_turn("agent", "where were we?")
                handles.append(handle)
        versions: list[int] = await asyncio.gather(*handles)
        assert len(versions) == len(handles)
        return handles

    async def look(self) -> None:
        """At what there is."""
        record = await self.store.get("c1")
        assert_type(record, Record)
        turn: Turn = record.state.history[-1]
        turn.content = "x"
        turn.role = "agent"
        turn.duration_ms = 7
        content: str = turn.content
        async for event in self.store.events("expired", "orphaned"):
            assert_type(event, Event)
            assert event.session_id != content
        if self.store.draining:
            await self.store.leave(20)


async def main() -> None:
    """The whole of it."""
    async with connect(worker_id="w1") as store, store.graceful() as leaving:
        agent = Agent(store)
        call = await store.open_call("c1", steal=True)
        error = await call.wait_lost()
        await call.close(error)
        await agent.answer("c2")
        await leaving.wait()
    await Agent(MemoryStore()).look()


def blocking() -> None:
    """Without asyncio."""
    with sync.connect() as store:
        assert_type(store.add_turn("c1", "user", "hello"), int)
        store.update("c1", status="active", extra={"campaign": 7})
