"""The faults of a soak: each begins, lasts as long as its step says, and ends."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from soak.clients import Line, kind_of
from soak.crew import Crew
from soak.floods import FLOODS
from soak.oracles import Violation
from soak.schedule import Step
from soak.stage import Stage
from support.fault_proxy import Fault
from support.redis_states import Busy, Loading, NoAuth, OutOfMemory, ReadOnly, State

CUTS = (Fault.BEFORE, Fault.WITHIN, Fault.AFTER, Fault.REPLY, Fault.BLACK_HOLE)
FURTHEST_US = 2 * 3600 * 1_000_000
"""The furthest that the wall clock is set, either way."""

OPERATOR_S = 60.0
"""How long an operator's command may take, through any fault."""


class Faults:
    """What can be done to a run.

    Args:
        stage: daemon, store and disk.
        crew: the worker processes.
    """

    def __init__(self, stage: Stage, crew: Crew) -> None:
        self._stage = stage
        self._crew = crew
        states: Mapping[str, type[State]] = {
            "redis_readonly": ReadOnly, "redis_oom": OutOfMemory, "redis_loading": Loading, "redis_busy": Busy,
            "redis_noauth": NoAuth,
        }  # fmt: skip
        self._states = states

    async def play(self, step: Step) -> None:
        """Do a step from its beginning to its end."""
        if step.fault in FLOODS:
            dice = random.Random(step.choice)
            await FLOODS[step.fault](self._stage.daemon.socket, step.for_s, dice)
        elif step.fault in self._states:
            await self._state(step)
        else:
            fault: Callable[[Step], Awaitable[None]] = getattr(self, f"_{step.fault}")
            await fault(step)

    # -- workers --------------------------------------------------------------------------------------------

    async def _worker_kill(self, step: Step) -> None:
        await self._crew.kill(step.choice)

    async def _worker_stop(self, step: Step) -> None:
        await self._crew.stop(step.choice, step.for_s)

    async def _worker_leave(self, step: Step) -> None:
        await self._crew.leave(step.choice)

    # -- the daemon -----------------------------------------------------------------------------------------

    async def _daemon_kill(self, step: Step) -> None:
        await self._stage.daemon.in_thread("kill")
        await asyncio.sleep(step.for_s)
        await self._stage.start()

    async def _daemon_restart(self, _: Step) -> None:
        daemon = self._stage.daemon
        assert daemon.process is not None
        daemon.signal(signal.SIGTERM)
        try:
            status = await asyncio.to_thread(daemon.process.wait, OPERATOR_S)
        except Exception as error:
            raise Violation(f"SIGTERM did not end the daemon within {OPERATOR_S:.0f} s") from error
        if status:
            raise Violation(f"after SIGTERM the daemon left with status {status}")
        await self._stage.start()

    async def _daemon_stop(self, step: Step) -> None:
        self._stage.daemon.signal(signal.SIGSTOP)
        await asyncio.sleep(step.for_s)
        self._stage.daemon.signal(signal.SIGCONT)

    async def _disk_full(self, step: Step) -> None:
        self._stage.fill_disk()
        await asyncio.sleep(step.for_s)
        self._stage.empty_disk()

    async def _files_full(self, step: Step) -> None:
        self._stage.limit_files()
        await asyncio.sleep(step.for_s)
        self._stage.unlimit_files()

    async def _full_and_kill(self, step: Step) -> None:
        """Killed while the disk is full, and started when there is room again."""
        self._stage.fill_disk()
        self._stage.limit_files()
        await asyncio.sleep(step.for_s)
        await self._stage.daemon.in_thread("kill")
        self._stage.empty_disk()
        await self._stage.start()

    # -- the store ------------------------------------------------------------------------------------------

    async def _redis_down(self, step: Step) -> None:
        """The proxy is deaf, so nothing is lost: as a network that is down."""
        await self._cut(Fault.BLACK_HOLE, step.for_s, 1.0)

    async def _redis_stop(self, step: Step) -> None:
        self._stage.redis.pause()
        await asyncio.sleep(step.for_s)
        self._stage.redis.resume()

    async def _redis_slow(self, step: Step) -> None:
        await self._cut(Fault.DELAY, step.for_s, 1.0)

    async def _redis_cut(self, step: Step) -> None:
        await self._cut(CUTS[int(step.choice * len(CUTS))], step.for_s, 0.3)

    async def _cut(self, fault: Fault, for_s: float, share: float) -> None:
        self._stage.proxy.fault, self._stage.proxy.share = fault, share
        await asyncio.sleep(for_s)
        self._stage.proxy.fault = None

    async def _redis_emptied(self, _: Step) -> None:
        await asyncio.to_thread(self._stage.redis.command, "FLUSHALL")
        self._stage.losses.happened()

    async def _redis_replaced(self, step: Step) -> None:
        """Killed, and started again without data."""
        redis = self._stage.redis
        await asyncio.to_thread(redis.kill)
        redis.socket.with_name("dump.rdb").unlink(missing_ok=True)
        await asyncio.sleep(step.for_s)
        await asyncio.to_thread(redis.start)
        self._stage.losses.happened()

    async def _state(self, step: Step) -> None:
        state = self._states[step.fault](self._stage.redis)
        await state.begin()
        await asyncio.sleep(step.for_s)
        await state.end()
        if step.fault == "redis_loading":  # it went back to what it had a moment before it was killed
            self._stage.losses.happened()

    # -- clock and operators --------------------------------------------------------------------------------

    async def _clock_step(self, step: Step) -> None:
        self._stage.set_clock(round((step.choice * 2 - 1) * FURTHEST_US))
        await asyncio.sleep(step.for_s)
        self._stage.set_clock(0)

    async def _drain(self, step: Step) -> None:
        await self._ask("server.drain", on=True)
        await asyncio.sleep(step.for_s)
        await self._ask("server.drain", on=False)

    async def _check(self, _: Step) -> None:
        await self._ask("server.check")

    async def _flush(self, _: Step) -> None:
        await self._ask("server.flush", timeout_s=0.5)

    async def _ask(self, method: str, **params: object) -> None:
        line = Line(self._stage.daemon.socket)
        reply = await line.ask(method, dict(params))
        line.close()
        if kind_of(reply) == "internal":
            raise Violation(f"{method} was answered {reply}")

    async def _command_line(self, _: Step) -> None:
        for words in (("ls",), ("health",), ("workers",)):
            await self._run(*words)

    async def _export(self, _: Step) -> None:
        await self._run("export")

    async def _run(self, *words: str) -> None:
        """Run a command of `callstate`, which may fail as the daemon may be down, and must say why in words."""
        command = [sys.executable, "-m", "callstate_client.cli", "--socket", str(self._stage.daemon.socket), *words]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
        )
        try:
            async with asyncio.timeout(OPERATOR_S):
                _, said = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        if b"Traceback" in said:
            raise Violation(f"callstate {' '.join(words)}: {said.decode()}")
