"""The worker processes of failover.py: those to be killed, one that takes over their calls, and one that makes
traffic. Each runs until its stdin is closed.

    python -m bench.workers ROLE SOCKET [NUMBER]
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from itertools import cycle
from typing import Any, Final

import uvloop

from bench.documents import CONTENT, DURATION_MS, ROLE, document
from callstate_client import SessionState, connect
from callstate_client.client import SidecarStore

LABELS: Final = {"app": "dying"}
"""Labels of the calls whose workers are killed."""

TURNS: Final = 20
"""Length of every call here."""

NODE: Final = "booking"
TIMEOUT_S: Final = 30.0
"""Heartbeat timeout of the calls whose workers are killed, the default one."""

TASKS: Final = 32
CALLS_A_TASK: Final = 4
MOST_TURNS: Final = 40
"""A call of the traffic that has this many turns is saved with TURNS again, as the next call."""

PAGE_BYTES: Final = 4096


def say(*words: object) -> None:
    """Print a line with a single write, because several processes share the pipe."""
    os.write(sys.stdout.fileno(), (" ".join(map(str, words)) + "\n").encode())


async def _until_told(work: Coroutine[Any, Any, None]) -> None:
    """Run this until stdin is closed."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), task.cancel)
    with suppress(asyncio.CancelledError):
        await task


# -- to be killed ---------------------------------------------------------------------------------------------


def victims(socket: str, ballast_bytes: int) -> None:
    """For each line of stdin, fork that many workers. Each prints its pid and session once it holds its call.

    A fork has nothing to import and shares the memory of this process, so it is small and soon ready.

    Args:
        socket: the daemon's.
        ballast_bytes: private memory of each beyond that.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they are not waited for: their exit must wake only the daemon
    life, ours = os.pipe()
    gc.collect()
    gc.freeze()  # a collection in a child would copy shared pages
    number = 0
    for line in sys.stdin:
        for _ in range(int(line)):
            number += 1
            if not os.fork():
                os.close(ours)
                asyncio.run(_victim(socket, number, life, ballast_bytes))


async def _victim(socket: str, number: int, life: int, ballast_bytes: int) -> None:
    asyncio.get_running_loop().add_reader(life, os._exit, 0)  # closed when the process that forked us is gone
    ballast = bytearray(ballast_bytes)
    ballast[::PAGE_BYTES] = b"\1" * len(range(0, ballast_bytes, PAGE_BYTES))  # the kernel gives what is written to
    async with connect(socket, f"victim-{number}", wait_s=30.0, timeout_s=30.0) as store:
        state = SessionState(f"dying-{number}", provider="sip", from_="+442079460123", to="+15550100")
        state.status = "active"
        async with store.hold(state, labels=LABELS, heartbeat_timeout_s=TIMEOUT_S) as call:
            call.update(recovery_data={"node": NODE})
            for turn in range(TURNS - 1):
                call.add_turn("agent" if turn % 2 else "user", f"{turn} {CONTENT}", DURATION_MS)
            await call.add_turn("agent", CONTENT, DURATION_MS)
            say(os.getpid(), call.id)
            await asyncio.Event().wait()


# -- taking over ----------------------------------------------------------------------------------------------


async def _rescue(socket: str) -> None:
    """Take over one call after the other, like a worker with free capacity.

    Prints for each the session, when it was held with its history (CLOCK_MONOTONIC, ns), and its number of turns.
    """
    async with (
        connect(socket, "rescuer", timeout_s=30.0) as store,
        aclosing(store.recover(labels=LABELS, watch=True)) as calls,
    ):
        async for call in calls:
            history, node = call.state.history, call.state.recovery_data["node"]
            last = history[-1].content
            at = time.monotonic_ns()
            if (node, last) != (NODE, CONTENT):
                raise RuntimeError(f"{call.id} was not as it was left: {node}, {last}")
            async with call:  # leaving the block ends the call
                pass
            say(call.id, at, len(history))


def rescuer(socket: str, _: int) -> None:
    """The worker that takes over calls."""
    uvloop.run(_until_told(_rescue(socket)))


# -- traffic --------------------------------------------------------------------------------------------------


class _Traffic:
    """Tasks that alternate turns and heartbeats, each for a few calls of its own."""

    def __init__(self, store: SidecarStore) -> None:
        self._store = store
        self._said: dict[str, int] = {}
        self.requests = 0

    async def begin(self, session_id: str) -> None:
        """Save a call of TURNS turns."""
        await self._store.save(SessionState.from_json(document(session_id, TURNS)))
        self._said[session_id] = TURNS

    async def talk(self, calls: Sequence[str], rate_per_s: float) -> None:
        """Run one task.

        Args:
            calls: the task's calls.
            rate_per_s: requests per second, at random times; 0: as many as possible.
        """
        loop = asyncio.get_running_loop()
        due = loop.time()
        for session_id in cycle(calls):
            for request in (self._turn, self._store.update_heartbeat):
                if rate_per_s:
                    due += random.expovariate(rate_per_s)
                    await asyncio.sleep(max(0.0, due - loop.time()))
                await request(session_id)
                self.requests += 1

    async def _turn(self, session_id: str) -> None:
        if self._said[session_id] >= MOST_TURNS:
            await self.begin(session_id)
        self._said[session_id] += 1
        await self._store.add_turn(session_id, ROLE, CONTENT, DURATION_MS)


async def _haul(socket: str, rate_per_s: int) -> None:
    """Prints `begun`, and at the end the rate that was reached, in requests per second."""
    async with connect(socket, "traffic", timeout_s=30.0) as store:
        traffic = _Traffic(store)
        shares = [[f"talk-{task}-{call}" for call in range(CALLS_A_TASK)] for task in range(TASKS)]
        for share in shares:
            for session_id in share:
                await traffic.begin(session_id)
        say("begun")
        began = time.monotonic()
        try:
            await asyncio.gather(*(traffic.talk(share, rate_per_s / TASKS) for share in shares))
        finally:
            say(traffic.requests / (time.monotonic() - began))


def traffic(socket: str, rate_per_s: int) -> None:
    """The worker that makes traffic."""
    gc.freeze()
    uvloop.run(_until_told(_haul(socket, rate_per_s)))


ROLES: Final[Mapping[str, Callable[[str, int], None]]] = {
    "victims": victims, "rescuer": rescuer, "traffic": traffic,
}  # fmt: skip

if __name__ == "__main__":
    ROLES[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
