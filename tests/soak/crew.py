"""The worker processes of a soak: started, killed, stopped, and what they report."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from soak.clients import Line
from soak.oracles import Calls, Losses, Violation, check_dead, is_free

TESTS = Path(__file__).parents[1]
FREED_WITHIN_S = 90.0
"""How long after its worker's death nobody may be able to take a call: the heartbeat timeout, which is all that a
daemon has that was down when the worker died, and faults of several seconds."""

LEAVES_WITHIN_S = 120.0
LOOK_EVERY_S = 0.5
VERIFIED = 40
"""Ended calls that are kept until the end of the run; older ones are looked at, and deleted."""


class Crew:
    """The workers.

    Args:
        socket: the daemon's.
        seed: of the workers.
        size: how many there are at a time.
        errors: receives what they write to stderr.
        losses: when the store has lost what it had.
    """

    def __init__(self, socket: Path, seed: int, size: int, errors: Path, losses: Losses) -> None:
        self._socket = socket
        self._seed = seed
        self._size = size
        self._errors = errors
        self._started = 0
        self._working: dict[str, asyncio.subprocess.Process] = {}
        self._leaving: dict[str, asyncio.subprocess.Process] = {}
        self._reading: set[asyncio.Task[None]] = set()
        self.watching: set[asyncio.Task[None]] = set()
        self.calls = Calls(self.is_alive, losses)
        self._over: asyncio.Queue[str] = asyncio.Queue()
        self.kept: list[str] = []
        self.killed = 0

    def is_alive(self, worker: str) -> bool:
        """Whether this worker's process runs."""
        process = self._working.get(worker) or self._leaving.get(worker)
        return process is not None and process.returncode is None

    async def start(self) -> None:
        """Start as many as there are to be."""
        while len(self._working) < self._size:
            await self._hire()

    async def _hire(self) -> None:
        self._started += 1
        worker = f"w{self._started}"
        with self._errors.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "soak.worker", str(self._socket), worker, str(self._seed),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors, limit=1 << 20,
                env=os.environ | {"PYTHONPATH": str(TESTS)},
            )  # fmt: skip
        self._working[worker] = process
        self._reading.add(asyncio.ensure_future(self._read(worker, process)))

    async def _read(self, worker: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.endswith(b"\n"):
                self._take(worker, json.loads(line))

    def _take(self, worker: str, words: list[Any]) -> None:
        kind, *rest = words
        if kind == "held":
            session_id, epoch, turns = rest
            self.calls.held(session_id, worker, epoch, turns)
        elif kind == "said":
            self.calls.said(*rest)
        elif kind in ("left", "ended"):
            self.calls.left(rest[0], worker, ended=kind == "ended")
            if kind == "ended":
                self._over.put_nowait(rest[0])

    # -- faults ---------------------------------------------------------------------------------------------

    def _choose(self, choice: float) -> tuple[str, asyncio.subprocess.Process]:
        workers = [*self._working.items()]
        return workers[int(choice * len(workers))]

    async def kill(self, choice: float) -> None:
        """kill -9 of a worker, and another takes its place."""
        worker, process = self._choose(choice)
        process.kill()
        await process.wait()
        self.killed += 1
        del self._working[worker]
        self._watch(worker)
        await self._hire()

    def _watch(self, dead: str) -> None:
        self.watching.add(asyncio.ensure_future(self._freed(dead)))

    async def _freed(self, dead: str) -> None:
        """Each call of a dead worker can be taken, or was taken, or is over."""
        line = Line(self._socket)
        deadline = time.monotonic() + FREED_WITHIN_S
        unfreed = self.calls.of(dead)
        while unfreed and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_EVERY_S)
            unfreed = [session_id for session_id in unfreed if not await self._is_free(line, session_id, dead)]
        line.close()
        check_dead(dead, unfreed, FREED_WITHIN_S)

    async def _is_free(self, line: Line, session_id: str, dead: str) -> bool:
        found = await line.load(session_id)
        if found is None or is_free(found, dead):
            return True
        reply = await line.ask("session.list", {"owner": dead, "state": "suspect"})
        return session_id in [each["session"]["id"] for each in reply["result"]["sessions"]]

    async def stop(self, choice: float, seconds: float) -> None:
        """SIGSTOP for a while."""
        _, process = self._choose(choice)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)

    async def leave(self, choice: float) -> None:
        """A worker ends its calls and leaves, and another takes its place."""
        worker, process = self._choose(choice)
        del self._working[worker]
        self._leaving[worker] = process
        await self._hire()
        await self._dismiss(worker, process)
        del self._leaving[worker]

    async def _dismiss(self, worker: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(LEAVES_WITHIN_S):
                status = await process.wait()
        except TimeoutError:
            process.kill()
            raise Violation(f"{worker} did not leave within {LEAVES_WITHIN_S:.0f} s") from None
        if status:
            raise Violation(f"{worker} failed with status {status}:\n{self._errors.read_text()[-3000:]}")

    # -- checking -------------------------------------------------------------------------------------------

    async def verify(self) -> None:
        """Look at calls that are over, as they end; delete all but some."""
        line = Line(self._socket)
        while True:
            session_id = await self._over.get()
            await self._look(line, session_id)
            self.kept.append(session_id)
            if len(self.kept) > VERIFIED:
                oldest = self.kept.pop(0)
                await line.ask("session.delete", {"session_id": oldest})
                self.calls.by_id.pop(oldest, None)

    async def _look(self, line: Line, session_id: str) -> None:
        found = await line.load(session_id)
        if session_id in self.calls.by_id:
            self.calls.found(session_id, found)

    async def check_all(self) -> None:
        """Each call that is known is as it was acknowledged."""
        line = Line(self._socket)
        for session_id, call in [*self.calls.by_id.items()]:
            if call.acknowledged:
                await self._look(line, session_id)
        line.close()

    async def finish(self) -> None:
        """Let all workers end their calls and leave; then all is reported."""
        await asyncio.gather(*(self._dismiss(*each) for each in self._working.items()))
        self._working.clear()
        await asyncio.gather(*self._reading)
        await asyncio.gather(*self.watching)

    def failed(self) -> BaseException | None:
        """What a task of this crew has failed with."""
        for task in (*self._reading, *self.watching):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                return error
        return None

    def abandon(self) -> None:
        """Kill what still runs."""
        for task in (*self._reading, *self.watching):
            task.cancel()
        for process in (*self._working.values(), *self._leaving.values()):
            if process.returncode is None:
                process.kill()
