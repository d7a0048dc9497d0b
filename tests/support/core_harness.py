"""One core and its workers, whose processes exit and whose connections close when the test says so."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any, Literal

from callstate_client.engine.phases import Phase
from callstate_client.engine.process import Gone, Process
from callstate_client.engine.table.session_table import SessionTable
from callstate_sidecar.reaper import SESSIONS_A_SLICE
from callstate_sidecar.system.pidfd import Peer as Found
from support.core import BadDisk, Core, FakeClient, durable_state, open_journal

BOOT = "boot-1"
LOOP_PASSES = 40
"""Enough passes of the event loop for everything that is due: nothing here waits for anything outside."""
ENDS = ("ended", "expired", "deleted")
FULL = OSError(errno.ENOSPC, "No space left on device")

TIMEOUT_S, GRACE_S, RETENTION_S, RECONNECT_S, TICK_S = 30.0, 30.0, 300.0, 5.0, 0.1
"""The core's time spans: the defaults of `reaper.*`."""


class FakeProcess:
    """A process, with a pipe in place of its pidfd.

    Args:
        process: what the kernel reports; None: nothing, as for another PID namespace.
        watchable: whether there is a pidfd.
    """

    def __init__(self, process: Process | None, *, watchable: bool = True) -> None:
        self.process = process
        self.pidfd: int | None = None
        self._alive: int | None = None
        if watchable and process is not None:
            self.pidfd, self._alive = os.pipe()

    @property
    def watchable(self) -> bool:
        """Whether its exit can be detected."""
        return self.pidfd is not None

    def exit(self) -> None:
        """End it."""
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None

    def close(self) -> None:
        """Close the descriptors."""
        self.exit()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


class ErrorReply(Exception):  # noqa: N818 - a reply
    """A request's error reply."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error))
        self.kind: str = error["data"]["kind"]
        self.data: dict[str, Any] = error["data"]


class CoreHarness:
    """One core on a journal, an operator, a subscriber to all events, and workers.

    Args:
        directory: of the journal.
        options: sections of the configuration.
    """

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.options = options
        self.processes: list[FakeProcess] = []
        self.living: dict[Process, FakeProcess] = {}
        self.history: list[dict[str, Any]] = []
        """All events, over all restarts."""
        self._read = 0
        self._open(Core(**options).clock)

    def _open(self, clock: Any) -> None:
        self.disk = BadDisk()
        table = SessionTable()
        self.journal = open_journal(self.directory, self.disk, table, start=True)
        self.core = Core(journal=self.journal, table=table, **self.options)
        clock.stalled_s = 0.0
        # the new core has a clock of its own, at the old one's time
        self.core.clock.at_us, self.core.clock.at_s = clock.at_us, clock.at_s
        self.core.peers.find = self.find  # type: ignore[method-assign]
        self.operator = FakeClient(self.core)
        self.watcher = FakeClient(self.core)
        self.watcher.events = self.history
        self.watcher.send(("events.subscribe", {}))

    def find(self, process: Process) -> Found | Literal[Gone.GONE] | None:
        """In place of `Peers.find`."""
        program = self.living.get(process)
        if not process.pid:
            return None
        if program is None:
            return Gone.GONE
        return None if program.pidfd is None else Found(process, os.dup(program.pidfd))

    async def restart(self) -> None:
        """kill -9 of the daemon and a new start, as `Daemon._restore` does it; all connections are lost."""
        self.core.engine.close()
        await self.core.reaper.stop()
        await self.core.read_through.close()
        self.journal.close()
        self._open(self.core.clock)
        core = self.core
        core.engine.restore(core.peers.find)
        await self.settle()

    async def close(self) -> None:
        """Stop everything."""
        self.core.engine.close()
        await self.core.reaper.stop()
        await self.core.read_through.close()
        self.journal.close()
        for program in self.processes:
            program.close()

    # -- workers --------------------------------------------------------------------------------------------

    def process(self, number: int | None = None, *, watchable: bool = True, visible: bool = True) -> FakeProcess:
        """A new process, with this pid or with an unused one."""
        mark = len(self.processes) + 1
        process = Process(number or 100 + mark, mark, BOOT, mark) if visible else None
        program = FakeProcess(process, watchable=watchable)
        self.processes.append(program)
        if process is not None:
            self.living[process] = program
        return program

    def connect(self, program: FakeProcess) -> FakeClient:
        """A connection made by this process."""
        peer = FakeClient(self.core, program.process)
        peer.pidfd = program.pidfd
        return peer

    async def worker(self, worker_id: str, program: FakeProcess | None = None, **more: str) -> FakeClient:
        """A registered connection of this process, or of a new one."""
        peer = self.connect(program or self.process())
        await self.request(peer, "worker.register", worker_id=worker_id, **more)
        return peer

    def process_of(self, peer: FakeClient) -> FakeProcess:
        """The process that made this connection."""
        return next(p for p in self.processes if p.process is not None and p.process == peer.process)

    def exit(self, program: FakeProcess) -> None:
        """Let the process exit; its connections stay open until `drop_connection`."""
        if program.process is not None:
            self.living.pop(program.process, None)
        program.exit()

    def drop_connection(self, peer: FakeClient) -> None:
        """Close the connection."""
        if peer.connection.transport is not None:
            peer.connection.connection_lost(None)

    async def disconnect(self, peer: FakeClient) -> None:
        """Close the connection, and let the core deal with it."""
        self.drop_connection(peer)
        await self.settle()

    async def kill(self, peer: FakeClient) -> None:
        """kill -9 of a worker with one connection."""
        self.exit(self.process_of(peer))
        await self.disconnect(peer)

    # -- requests -------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Run the loop until nothing is due."""
        for _ in range(LOOP_PASSES):
            await asyncio.sleep(0)

    async def replies(self, peer: FakeClient, *requests: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Send all of these in one pass of the event loop, and return their replies."""
        ids = peer.send(*requests)
        await self.settle()
        assert peer.answered(ids)
        return [peer.replies[request_id] for request_id in ids]

    async def request(self, peer: FakeClient, method: str, **params: Any) -> Any:
        """The result of one request.

        Raises:
            ErrorReply: it was refused.
        """
        [reply] = await self.replies(peer, (method, params))
        if "error" in reply:
            raise ErrorReply(reply["error"])
        return reply["result"]

    async def refused(self, peer: FakeClient, method: str, **params: Any) -> dict[str, Any]:
        """Send a request that must fail and change nothing; returns the error's data."""
        before = self.durable_state()
        [reply] = await self.replies(peer, (method, params))
        assert "error" in reply, reply
        assert self.durable_state() == before
        data: dict[str, Any] = reply["error"]["data"]
        return data

    async def save(self, peer: FakeClient, session_id: str, status: str = "active", **beside: Any) -> Any:
        """Save a session."""
        return await self.request(peer, "session.save", session={"id": session_id, "status": status}, **beside)

    async def heartbeat(self, peer: FakeClient, session_id: str) -> Any:
        """Send a heartbeat for a session."""
        return await self.request(peer, "session.heartbeat", session_id=session_id)

    async def add_turn(self, peer: FakeClient, session_id: str, **beside: Any) -> Any:
        """Add a turn."""
        return await self.request(peer, "session.add_turn", session_id=session_id, turn={"content": "x"}, **beside)

    async def claim(self, peer: FakeClient, session_id: str, worker_id: str, **beside: Any) -> Any:
        """Claim a session."""
        return await self.request(peer, "session.claim", session_id=session_id, worker_id=worker_id, **beside)

    async def claim_next(self, peer: FakeClient, worker_id: str, **beside: Any) -> Any:
        """Claim whichever session is next."""
        return await self.request(peer, "session.claim_next", worker_id=worker_id, **beside)

    async def release(self, peer: FakeClient, session_id: str, epoch: int = 0) -> Any:
        """Release a session."""
        return await self.request(peer, "session.release", session_id=session_id, epoch=epoch)

    async def end(self, peer: FakeClient, session_id: str, **beside: Any) -> Any:
        """End a session."""
        return await self.request(peer, "session.end", session_id=session_id, **beside)

    async def load(self, session_id: str) -> Any:
        """Load a session, as the operator."""
        return await self.request(self.operator, "session.load", session_id=session_id)

    # -- time -----------------------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Let time pass, and run the reaper until nothing is due."""
        self.core.clock.advance(seconds)
        while self.core.reaper.tick(self.core.clock.live()) >= SESSIONS_A_SLICE:
            pass
        await self.settle()

    async def reap_silent(self) -> None:
        """Let time pass until sessions that are silent meanwhile are reaped."""
        await self.advance(TIMEOUT_S)
        await self.advance(GRACE_S)

    # -- state ----------------------------------------------------------------------------------------------

    def new_events(self, *types: str) -> list[dict[str, Any]]:
        """The events since the last call, of these types, without stream, number and time."""
        news, self._read = self.history[self._read :], len(self.history)
        return [
            {name: value for name, value in event.items() if name not in ("stream", "seq", "at")}
            for event in news
            if not types or event["type"] in types
        ]

    def phase(self, session_id: str) -> Phase | None:
        """The phase of a session."""
        return self.core.phase(session_id)

    def ownership(self, session_id: str) -> tuple[str, int, str]:
        """Owner, epoch, and why the session is an orphan, if it is one."""
        facts = self.core.session(session_id).facts
        return facts.owner, facts.epoch, facts.orphan

    def durable_state(self) -> dict[str, Any]:
        """What a rollback or a replay has to restore."""
        return durable_state(self.core.table)

    def check_consistency(self) -> None:
        """Assert the invariants: index, phases and suspicions agree with the sessions."""
        table, liveness = self.core.table, self.core.liveness
        sessions = table.sessions.values()
        owned: dict[str, set[str]] = {}
        statuses: dict[str, int] = {}
        for session in sessions:
            statuses[session.doc.status] = statuses.get(session.doc.status, 0) + 1
            if session.facts.owner:
                owned.setdefault(session.facts.owner, set()).add(session.id)
            assert not (session.facts.owner and session.facts.orphan), "an orphan with an owner"
            phase = liveness.phase(session)
            assert (phase is Phase.ENDED) is session.ended
            assert (phase is Phase.SUSPECT) is bool(session.suspected)
            assert not session.facts.reaped or session.ended
        assert {worker: {each.id for each in having} for worker, having in table.index.owned.items()} == owned
        assert set(table.index.orphans) == {e.id for e in sessions if e.facts.orphan and not e.ended}
        assert [*liveness.suspects.having({})] == [*liveness.suspects]
        labels = {label for session in sessions for label in session.facts.labels.items()}
        for name, value in labels:
            having = {e.id for e in sessions if e.facts.labels.get(name) == value}
            assert {*liveness.suspects.having({name: value})} == having & {*liveness.suspects}
            assert {*table.index.orphans.having({name: value})} == having & {*table.index.orphans}
        assert table.index.by_status == statuses
        assert len(liveness) == len(table.sessions)
        queued = [(session.id, queue) for queue in liveness._queues() for session in queue.order]
        queues = [(session.id, session.queue) for session in sessions]
        assert sorted(queued) == sorted(queues), "each session is in one phase"

    def check_replay(self) -> None:
        """Assert that the journal alone restores the state."""
        table = SessionTable()
        open_journal(self.directory, self.disk, table, start=False)
        assert durable_state(table) == self.durable_state()
