"""One worker process: keeps a number of live calls until it is told to stop, and times each request.

    python -m bench.day.worker SIDE SOCKET NAME

It reads commands, a line each, and answers each with a line:

    begin N         begin this many calls, of all ages
    rescue          from now on continue the calls of dead workers, and, by hand, look for them
    go              let time pass; once: later ones continue where `pause` stopped
    pause           stop starting requests; answered when all are done
    report          answered with the latencies so far as JSON, by request, in microseconds, and the calls rescued
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.day.keepers import BEAT_EVERY_S, Callstate, Keeper, Nothing
from bench.day.pacing import Pacing
from bench.day.redis_keepers import ByHand, RedisStore
from bench.documents import CONTENT, DURATION_MS
from callstate_client import SessionState

TURN_EVERY_S: Final = (1.5, 4.5)
UPDATE_EVERY_S: Final = 30.0
LOAD_EVERY_S: Final = 60.0
CALL_S: Final = (120.0, 240.0)
"""Calls of three minutes, a turn every three seconds: the mean of these ranges."""

BEGUN_AT_ONCE: Final = 32
REAP_EVERY_S: Final = 1.0


class Conversation:
    """A live call and when its requests are due.

    Args:
        worker: that has it.
        call: what the keeper gave.
        left_s: until it ends.
    """

    def __init__(self, worker: Worker, call: Any, left_s: float) -> None:
        self._worker = worker
        self._call = call
        self._ends_at = worker.pacing.now() + left_s
        self._turns = 0
        after = worker.pacing.after
        after(left_s, self._end)
        after(random.uniform(*TURN_EVERY_S), self._turn)
        after(random.uniform(0.0, UPDATE_EVERY_S), self._update)
        after(random.uniform(0.0, LOAD_EVERY_S), self._load)
        if worker.keeper.beats:
            after(random.uniform(0.0, BEAT_EVERY_S), self._beat)

    def _again(self, delay_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Have this done again, unless the call is over by then. Returns whether the call is still live."""
        now = self._worker.pacing.now()
        if now + delay_s < self._ends_at:
            self._worker.pacing.after(delay_s, work)
        return now < self._ends_at

    async def _turn(self) -> None:
        if self._again(random.uniform(*TURN_EVERY_S), self._turn):
            role = "agent" if self._turns % 2 else "user"
            self._turns += 1
            await self._worker.timed("turn", self._worker.keeper.turn(self._call, role, CONTENT))

    async def _update(self) -> None:
        if self._again(UPDATE_EVERY_S, self._update):
            at = {"node": "booking", "slots": {"day": "Thu", "turn": self._turns}}
            await self._worker.timed("update", self._worker.keeper.update(self._call, at))

    async def _load(self) -> None:
        if self._again(LOAD_EVERY_S, self._load):
            await self._worker.timed("load", self._worker.keeper.load(self._call))

    async def _beat(self) -> None:
        if self._again(BEAT_EVERY_S, self._beat):
            await self._worker.timed("beat", self._worker.keeper.beat(self._call))

    async def _end(self) -> None:
        await self._worker.timed("end", self._worker.keeper.end(self._call))
        await self._worker.begin(0.0)


class Worker:
    """The calls of this process."""

    def __init__(self, name: str, keeper: Keeper, pacing: Pacing) -> None:
        self.keeper = keeper
        self.pacing = pacing
        self.latencies_us: Mapping[str, array[float]] = defaultdict(lambda: array("d"))
        self.rescued = 0
        self._ids = (f"{name}-{number}" for number in count())

    async def timed(self, request: str, work: Awaitable[Any]) -> Any:
        """Await it, and note how long that took."""
        began = time.perf_counter()
        result = await work
        self.latencies_us[request].append((time.perf_counter() - began) * 1e6)
        return result

    async def begin(self, age: float) -> None:
        """Begin a call; `age`: the part of it that is over, from 0 to 1."""
        length_s = random.uniform(*CALL_S)
        state = SessionState(next(self._ids), call_id=f"CA{random.getrandbits(64):x}", provider="twilio")
        state.direction, state.from_, state.to, state.status = "inbound", "+442079460123", "+15550100", "active"
        state.recovery_data = {"node": "greeting", "slots": {}}
        for turn in range(int(age * length_s / (sum(TURN_EVERY_S) / 2)) + 1):
            state.add_turn("agent" if turn % 2 else "user", CONTENT, DURATION_MS)
        Conversation(self, await self.timed("begin", self.keeper.begin(state)), length_s * (1.0 - age))

    async def fill(self, calls: int) -> None:
        """Begin that many, of all ages."""
        left = iter(range(calls))

        async def some() -> None:
            for _ in left:
                await self.begin(random.random())

        await asyncio.gather(*(some() for _ in range(BEGUN_AT_ONCE)))
        self.latencies_us["begin"][:] = array("d")

    async def rescue(self) -> None:
        """Continue the calls of dead workers, for ever."""
        if isinstance(self.keeper, ByHand):
            self.pacing.after(REAP_EVERY_S, self._reap)
        async for call in self.keeper.orphans():
            self.rescued += 1
            Conversation(self, call, random.uniform(0.0, CALL_S[1]))

    async def _reap(self) -> None:
        assert isinstance(self.keeper, ByHand)  # noqa: S101 - see rescue
        await self.keeper.reap()
        self.pacing.after(REAP_EVERY_S, self._reap)


async def _connect(side: str, path: Path, name: str, pacing: Pacing) -> Keeper:
    if side == "callstate":
        return await Callstate.connect(path, name)
    if side == "nothing":
        return Nothing()
    if side == "RedisStore":
        return RedisStore(path)
    return ByHand(path, pacing.now)


async def _serve(side: str, path: Path, name: str) -> None:
    pacing = Pacing()
    worker = Worker(name, await _connect(side, path, name, pacing), pacing)
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    rescuing: asyncio.Task[None] | None = None
    while words := (await commands.readline()).decode().split():
        answer = ""
        match words:
            case ["begin", calls]:
                await worker.fill(int(calls))
            case ["rescue"]:
                rescuing = asyncio.create_task(worker.rescue())
            case ["go"]:
                pacing.start()
            case ["pause"]:
                await pacing.pause()
            case ["report"]:
                told = {name: latencies.tolist() for name, latencies in worker.latencies_us.items()}
                answer = json.dumps({"latencies_us": told, "rescued": worker.rescued})
            case _:
                raise ValueError(f"no such command: {words}")
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    if rescuing is not None:
        rescuing.cancel()
        await asyncio.wait((rescuing,))
    await worker.keeper.close()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
