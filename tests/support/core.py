"""The daemon's core in one object: all real parts, with a clock and a store that the test controls."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, structs

from callstate_client.engine.engine import Engine
from callstate_client.engine.interfaces import Caller, Deferred, InSteps, InternalCaller, NotCached, NotOurs
from callstate_client.engine.long_result import Result
from callstate_client.engine.phases import Phase
from callstate_client.engine.process import Process
from callstate_client.engine.sessions.parts import NotJournaled
from callstate_client.engine.sessions.records import Record, decode_record, encode_record
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.replay import replay
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.user import NOBODY, User
from callstate_client.engine.verbs.table import VERBS
from callstate_sidecar.config.schema import Config
from callstate_sidecar.engine_host import DaemonHost
from callstate_sidecar.erasure import Erasure
from callstate_sidecar.journal import Files, Journal
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.read_through import ReadThrough
from callstate_sidecar.reaper import Reaper
from callstate_sidecar.reconcile import Reconciler
from callstate_sidecar.serving.connection import ClientConnection
from callstate_sidecar.serving.server import Server
from callstate_sidecar.slices import Slices
from callstate_sidecar.stores.backend import Backend
from callstate_sidecar.system.host import HostIdentity
from callstate_sidecar.system.peers import Peers
from callstate_sidecar.system.pidfd import Peer
from callstate_sidecar.write_behind import WriteBehind
from support.clock import ManualClock
from support.stores import MemoryBackend

ResultT = TypeVar("ResultT")

HOST = "host-1"
TIME = "2026-01-01T00:00:00Z"


class BadDisk(Files):
    """File calls whose writes fail on request.

    `error`, while set, is raised by writes: by the next `once` of them, or by all if that is 0.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.once = 0
        self.appends = 0

    def write(self, fd: int, data: bytes, at: int) -> None:
        """Write, or raise `error`."""
        error = self.error
        if error is not None:
            if self.once:
                self.once -= 1
                self.error = error if self.once else None
            raise error
        self.appends += 1
        super().write(fd, data, at)


def off_loop(work: Callable[[], ResultT]) -> ResultT:
    """Run this in a thread and wait for it, because blocking file calls are forbidden in a test's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def open_journal(directory: Path, disk: Files, table: SessionTable | None, *, start: bool) -> Journal:
    """A journal for a core.

    Args:
        directory: of the journal.
        disk: its file calls.
        table: replayed into, if given.
        start: open it for writing.
    """

    def opened() -> Journal:
        journal = Journal(directory, checkpoint_min_bytes=1 << 30, segment_bytes=1 << 16, files=disk)
        if table is not None:
            journal.replay(partial(replay, table))
        if start:
            journal.start()
        return journal

    return off_loop(opened)


def endless_slices() -> Slices:
    """Slices that end by their number of items alone, however slow the machine is."""
    return Slices(clock=lambda: 0.0)


class KnownPeers(Peers):
    """Identifies connections as the test says: the other end of each is a `FakeClient` in this process."""

    def identify(self, sock: Any) -> Peer:
        """The process that the test assigned to this connection, watched by a pipe in place of a pidfd."""
        return Peer(sock.process, -1 if sock.pidfd is None else os.dup(sock.pidfd))


class Core:
    """All parts of a daemon, joined as in `daemon.py`, with no background task running.

    Args:
        journal: gets what the server commits; None: only `Core.logged` does.
        backend: the store.
        table: the sessions in memory at the start, as after a replay.
        stream: the name of its event stream.
        host_id: its host.
        options: sections of the configuration.
    """

    def __init__(
        self,
        *,
        journal: Journal | None = None,
        backend: Backend | None = None,
        table: SessionTable | None = None,
        stream: str = "stream-1",
        host_id: str = HOST,
        **options: Any,
    ) -> None:
        self.host_id = host_id
        self.config = Config(**options)
        self.clock = ManualClock()
        self.memory = MemoryBackend()
        self.backend: Backend = backend or self.memory
        self.metrics = Metrics()
        self.engine = Engine(self.config.limits, self.config.reaper, self.clock, stream, table)
        self.table, self.tx, self.ctx = self.engine.table, self.engine.tx, self.engine.ctx
        self.queue = self.engine.flush_queue
        self.liveness, self.events = self.engine.liveness, self.engine.events
        self.reconciler = Reconciler(self.ctx, host_id, self.metrics)
        self.writer = WriteBehind(
            self.queue,
            self.backend,
            self.clock,
            self.config.store,
            self.metrics,
            host_id,
            self.events,
            self.commit,
            self.reconciler,
        )
        self.read_through = ReadThrough(
            self.ctx, self.writer.reads, host_id, slices=lambda _: endless_slices()
        )  # fmt: skip
        self.reaper = Reaper(
            self.engine, self.clock, self.metrics, self.config.reaper.tick_s, self.commit, endless_slices()
        )
        self.peers = KnownPeers("boot-1")
        self.serve(Server(self.engine, journal, self.metrics, self.config.limits), journal)
        self.logged: list[Record] = []
        self.caller: Caller = InternalCaller()
        """Who sends the requests of `call`: at first an operator of whom nothing is known."""

    def serve(self, server: Server, journal: Journal | None) -> None:
        """Make this the server that commits from now on."""
        self.server = server
        # However slow the machine is: what connections send in one turn of the loop is served in that order.
        server.queue.has_time = lambda: True  # type: ignore[method-assign]
        self.host = DaemonHost(
            identity=HostIdentity(self.host_id, "boot-1", "0"),
            config=self.config,
            clock=self.clock,  # type: ignore[arg-type]
            metrics=self.metrics,
            engine=self.engine,
            backend=self.backend,
            journal=journal,  # type: ignore[arg-type]  # used by `server.stats` alone
            peers=self.peers,
            server=server,
            read_through=self.read_through,
            write_behind=self.writer,
            erasure=Erasure(
                self.table, self.writer.flush, self.backend, self._clear_journal, Path("/nonexistent"), self.commit
            ),
            reaper=self.reaper,
            takeovers=None,
            settings=lambda: (),
            is_dead=lambda _: False,
        )
        self.engine.attach(self.host)

    async def _clear_journal(self) -> None:
        """Nothing: the journal is a list."""

    # -- groups -------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit the open group."""
        self.logged += [*self.tx.observed, *self.tx.records]
        self.server.group.commit()

    def replayed(self) -> SessionTable:
        """The table that a restart would restore from the log, with each record encoded and decoded."""
        table = SessionTable()
        for record in self.logged:
            replay(table, decode_record(encode_record(record)))
        return table

    # -- verbs --------------------------------------------------------------------------------------------

    async def call(self, method: str, **params: Any) -> Any:
        """The result of one request, after the commit of its group."""
        return json.loads(await self.raw(method, **params))

    async def raw(self, method: str, **params: Any) -> bytes:
        """Like `call`, but returns the bytes."""
        return await self.begin(method, msgspec.json.encode(params))

    def begin(self, method: str, params: bytes) -> asyncio.Future[bytes]:
        """Run a request. The future is done at once, unless the request waits for the store."""
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        verb, caller = VERBS[method], self.caller
        try:
            typed = verb.params(Raw(params))
        except Exception as error:  # noqa: BLE001 - the request's error
            done.set_exception(error)
            return done

        def finish(result: Result | Exception, *, changed: bool = False) -> None:
            undone: list[Exception] = []
            if changed:
                self.tx.after_rollback.append(undone.append)
            self.commit()
            if isinstance(result, Exception):
                done.set_exception(result)
            elif undone:
                done.set_exception(undone[0])
            else:
                done.set_result(result if isinstance(result, bytes) else result.joined())

        def run() -> None:
            before = len(self.tx.records)
            try:
                outcome = self.engine.run(caller, verb, typed)
                if isinstance(outcome, InSteps):
                    outcome = outcome.finish()
            except NotCached as miss:
                self.host.when_known(caller, miss.session_id, run)
            except NotJournaled as first:
                self.host.when_written(caller, first.session, run)
            except NotOurs as theirs:
                self.host.when_taken(caller, theirs, run)
            except Exception as error:  # noqa: BLE001 - the request's error
                finish(error)
            else:
                if isinstance(outcome, Deferred):
                    outcome.start(finish)
                else:
                    finish(outcome, changed=len(self.tx.records) > before)

        run()
        return done

    async def save(self, session_id: str, **beside: Any) -> Any:
        """Save a session; `session` may add members."""
        session = {"id": session_id, "provider": "twilio", "status": "active"} | beside.pop("session", {})
        return await self.call("session.save", session=session, **beside)

    async def turn(self, session_id: str, content: str = "hello", **beside: Any) -> Any:
        """Add a turn."""
        turn = {"role": "user", "content": content, "timestamp": TIME, "duration_ms": 100}
        return await self.call("session.add_turn", session_id=session_id, turn=turn, **beside)

    # -- time ---------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass, and run one tick of the reaper."""
        self.clock.advance(seconds)
        self.reaper.tick(self.clock.live())

    # -- state --------------------------------------------------------------------------------------------

    def session(self, session_id: str) -> Session:
        """A session in memory."""
        return self.table.sessions[session_id]

    def phase(self, session_id: str) -> Phase | None:
        """The phase of a session; None: it is not in memory, or not watched."""
        session = self.table.sessions.get(session_id)
        return None if session is None else self.liveness.phase(session)

    def connection(self) -> ClientConnection:
        """The daemon's end of a new connection."""
        return ClientConnection(self.server, self.server.limits.line_bytes)


def durable_state(table: SessionTable) -> dict[str, dict[str, Any]]:
    """What a rollback or a replay has to restore of all sessions, by id."""
    return {session_id: kept(session) for session_id, session in table.sessions.items()}


def kept(session: Session) -> dict[str, Any]:
    """What a rollback or a replay has to restore of one session."""
    doc = session.doc
    return {
        "document": doc.to_json(doc.updated_us),
        "turn_count": doc.turn_count,
        "history_bytes": doc.history_bytes,
        "provider": doc.provider,
        "call_id": doc.call_id,
        "id": session.id,
        "version": session.version,
        "ops": session.ops,
        # these three are journaled with the next change
        "facts": structs.replace(session.facts, claimed_us=0, handovers=0, crashes=0),
    }


class FakeClient(asyncio.Transport):
    """A client joined to the core in memory: its requests are lines, and so are the replies.

    It is the transport of the daemon's end; `writes` has the data of each write.
    """

    def __init__(self, core: Core, process: Process | None = None, user: User = NOBODY) -> None:
        super().__init__()
        self.user = user
        self.process = process
        self.pidfd: int | None = None
        self.events: list[dict[str, Any]] = []
        self.writes: list[bytes] = []
        self.replies: dict[int, Any] = {}
        self.ids = 0
        self.buffered = 0
        self.reading = True
        self.closed = False
        self.connection = core.connection()
        self.connection.connection_made(self)

    # -- the client's end -----------------------------------------------------------------------------------

    def request(self, method: str, params: dict[str, Any]) -> tuple[int, bytes]:
        """A request's id and its line."""
        self.ids += 1
        return self.ids, msgspec.json.encode(
            {"jsonrpc": "2.0", "id": self.ids, "method": method, "params": params}
        ) + b"\n"

    def send(self, *requests: tuple[str, dict[str, Any]]) -> list[int]:
        """Send all of these in one turn of the loop, and return their ids."""
        made = [self.request(method, params) for method, params in requests]
        self.connection.data_received(b"".join(line for _, line in made))
        return [request_id for request_id, _ in made]

    def answered(self, ids: list[int]) -> bool:
        """Whether all of these have their replies."""
        return all(request_id in self.replies for request_id in ids)

    # -- asyncio.Transport ----------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """The daemon's replies, complete lines."""
        self.writes.append(bytes(data))
        for line in bytes(data).splitlines():
            reply = json.loads(line)
            if reply.get("method") == "event":
                self.events.append(reply["params"])
                continue
            assert reply["id"] not in self.replies, "answered twice"
            self.replies[reply["id"]] = reply

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Itself, in place of the socket."""
        return self

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """The credentials of the client's process, as the kernel has them."""
        if optname == socket.SO_PEERCRED:
            return struct.pack("iII", 0, self.user.uid % 2**32, self.user.gid % 2**32)
        return struct.pack(f"{len(self.user.groups)}I", *self.user.groups)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        """As much as the test says."""
        return self.buffered

    def is_closing(self) -> bool:
        """Whether the daemon has closed the connection."""
        return self.closed

    def pause_reading(self) -> None:
        """The daemon stops reading."""
        self.reading = False

    def resume_reading(self) -> None:
        """The daemon reads again."""
        self.reading = True

    def close(self) -> None:
        """The daemon closes the connection."""
        self.closed = True
