"""A worker process of a soak: it holds calls, talks in them, and takes over those of workers that died.

    python -m soak.worker SOCKET WORKER_ID SEED

It writes a JSON array per line of what it was acknowledged, in a single write each, so that a kill loses lines and
never leaves half of one. It ends its calls and leaves once its standard input is closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Awaitable
from contextlib import suppress

import uvloop

from callstate_client import CallHandle, SessionState, SidecarStore, connect
from callstate_client.errors import CallstateError

CALLS = 4
"""Calls that a worker has at a time, beside those that it takes over."""

LABELS = {"app": "soak"}
PATIENCE_S = 120.0
"""How long a request waits: no fault lasts nearly as long."""


def say(*words: object) -> None:
    """Report."""
    os.write(sys.stdout.fileno(), (json.dumps(words) + "\n").encode())


class Worker:
    """One worker.

    Args:
        store: connected.
        worker_id: also the beginning of its calls' ids and of what it says.
        dice: decides what it does.
    """

    def __init__(self, store: SidecarStore, worker_id: str, dice: random.Random) -> None:
        self._store = store
        self._id = worker_id
        self._dice = dice
        self._said = 0
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Work until standard input is closed."""
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._leave)
        slots = [asyncio.ensure_future(self._slot(number)) for number in range(CALLS)]
        recovering = asyncio.ensure_future(self._recover())
        await asyncio.gather(*slots)
        recovering.cancel()
        with suppress(asyncio.CancelledError):
            await recovering

    def _leave(self) -> None:
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())  # at its end it is readable for ever
        self._leaving.set()

    async def _slot(self, number: int) -> None:
        calls = 0
        while not self._leaving.is_set():
            calls += 1
            session_id = f"{self._id}.{number}.{calls}"
            state = SessionState(session_id, provider="sip", from_="+442079460123", to="+15550100")
            try:
                async with self._store.hold(state, labels=LABELS, cancel_on_lost=True) as call:
                    await self._talk(call)
            except CallstateError as error:
                say("left", session_id, type(error).__name__)
                await self._pause(0.3)
            else:
                say("ended", session_id)

    async def _recover(self) -> None:
        while not self._leaving.is_set():
            try:
                await self._store.recover(self._take_over, labels=LABELS, watch=True, concurrency=CALLS * 4)
            except CallstateError as error:
                say("recovers", type(error).__name__)
                await self._pause(0.3)

    async def _take_over(self, call: CallHandle) -> None:
        try:
            await self._talk(call)
            await call.end()
        except CallstateError as error:
            say("left", call.id, type(error).__name__)
        else:
            say("ended", call.id)

    async def _talk(self, call: CallHandle) -> None:
        say("held", call.id, call.epoch, [turn.content for turn in call.state.history])
        pending: set[asyncio.Future[None]] = set()
        for _ in range(self._dice.randrange(5, 40)):
            if self._leaving.is_set():
                break
            self._said += 1
            turn = f"{self._id}:{self._said}"
            adding = call.add_turn("user" if self._said % 2 else "agent", turn, 100)
            pending.add(asyncio.ensure_future(_acknowledged(call.id, turn, adding)))
            if self._dice.random() < 0.3:
                call.update(recovery_data={"step": self._said, "pad": "x" * self._dice.randrange(500)})
            if self._dice.random() < 0.1:
                call.record_interruption()
            if len(pending) > 8 or self._dice.random() < 0.3:
                await _all(pending)
            await self._pause(self._dice.uniform(0.02, 0.4))
        await _all(pending)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._leaving.wait(), seconds)


async def _acknowledged(session_id: str, turn: str, adding: Awaitable[object]) -> None:
    await adding
    say("said", session_id, turn)


async def _all(pending: set[asyncio.Future[None]]) -> None:
    results = await asyncio.gather(*pending, return_exceptions=True)
    pending.clear()
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def main(socket: str, worker_id: str, seed: str) -> None:
    """Run one worker."""
    async with connect(socket, worker_id, wait_s=PATIENCE_S, timeout_s=PATIENCE_S) as store:
        say("ready")
        await Worker(store, worker_id, random.Random(f"{seed} {worker_id}")).run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4]))
