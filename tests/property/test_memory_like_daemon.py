"""MemoryStore answers as the daemon does: the same lines to both, and replies, errors and events equal to the byte.

Lines are drawn good and bad: wrong types, unknown members, deep nesting, integers beyond 64 bits, bad UTF-8, long
texts. Two workers and an operator send them, connections are lost and come back, workers die, and time passes for
both by the same seconds. Nothing is left out of the comparison: both clocks show the same time, so versions agree
as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callstate_client import Clock, MemoryStore, WireError
from callstate_client.engine.process import Process
from callstate_client.engine.request import error_line
from callstate_client.memory.views import View, ViewProcess
from callstate_client.protocol import LINE_BYTES
from callstate_client.protocol.events import TYPES
from callstate_sidecar.config.schema import ReaperConfig
from support.budget import examples
from support.core import Core, FakeClient

START = datetime(2026, 1, 1, tzinfo=UTC)
SPANS = {"heartbeat_timeout_s": 30.0, "grace_s": 30.0, "retention_s": 100_000.0, "reconnect_grace_s": 5.0}
WORKERS = ("w1", "w2", "")
"""Who sends; the last one is no worker."""


class Raw(bytes):
    """JSON, or what is to stand in its place, as it is."""


def dump(value: Any) -> bytes:
    """JSON of a value in which there may be Raw."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        return b"{%b}" % b",".join(b"%b:%b" % (dump(name), dump(each)) for name, each in value.items())
    if isinstance(value, list):
        return b"[%b]" % b",".join(map(dump, value))
    return json.dumps(value, ensure_ascii=False).encode()


def request(method: str, params: Any = None, envelope: dict[str, Any] | None = None) -> bytes:
    """A request line.

    Args:
        envelope: members beside the params, or in place of the usual ones.
    """
    members = {"jsonrpc": "2.0", "id": 7, "method": method}
    return dump(members | ({} if params is None else {"params": params}) | (envelope or {}))


# -- what is drawn ------------------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [
        None, True, 0, -1, 1, 2.5, "", "x", "ü" * 40, "y" * 2000, "x" * 65, "x" * 300, [], {}, [1], {"a": 1},
        2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**25, 1e300,
        Raw(b"1e999"), Raw(b"NaN"), Raw(b'"\\ud800"'), Raw(b'"\xff"'), Raw(b'{"a":"\xc3"}'), Raw(b"01"), Raw(b"["),
        Raw(b"[" * 70 + b"]" * 70), Raw(b'{"a":' * 60 + b"1" + b"}" * 60), Raw(b'{"a":1,"a":2}'),
        "2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "yesterday",
    ]
)  # fmt: skip
ID = st.sampled_from(["a", "a", "a", "a", "a", "b", "b", "c", "i" * 256, "i" * 257, "active", "@x", "a{"])
WORKER_ID = st.sampled_from(["w1", "w2"])
STATUS = st.sampled_from(["pending", "active", "on_hold", "ended", "mine"])
LABELS = st.sampled_from([{"app": "sales"}, {"app": "sales", "lang": "de"}, {}])
ODD_LABELS = st.sampled_from(
    [
        {str(n): "" for n in range(16)}, {str(n): "" for n in range(17)}, {"": "x"}, {"x" * 64: "x" * 256},
        {"x" * 65: ""}, {"a": "x" * 257}, {"ü" * 33: "x"}, {"a": "ü" * 129},
    ]
)  # fmt: skip
USER = st.fixed_dictionaries({}, optional={name: st.sampled_from([-1, 0, 5, -2, 2**32]) for name in ("uid", "gid")})
HISTORY = st.sampled_from(["all", "none", 0, 1, 2, "some", -1, 2**63 - 1, 2**63])
SECONDS = st.sampled_from([1, 2, 10, 40, 1000, 86_400, 86_401, 315_360_000, 315_360_001])
CURSOR = st.sampled_from([Raw(b"@cursor"), Raw(b"@cursor"), "", "0", "7", "x", "a", "b"])
SCOPE = st.sampled_from(["host", "all"])
VERSION = st.sampled_from([0, Raw(b"@version"), Raw(b"@version"), 1])

Members = dict[str, st.SearchStrategy[Any]]


def some(**members: st.SearchStrategy[Any]) -> Members:
    """Members by their names."""
    return members


TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "agent", "tool"]), "content": st.sampled_from(["hello", "ü", "z" * 500])},
    optional=some(
        duration_ms=st.sampled_from([0, 900, -5, 2**62]),
        timestamp=st.just("2026-01-01T00:00:00.123456789Z"),
        confidence=st.sampled_from([0.9, {"a": [1, None]}]),
    ),
)
HEAD = some(
    status=STATUS,
    provider=st.sampled_from(["sip", "twilio"]),
    metrics=st.sampled_from([{"turn_count": 5}, {"turn_count": 2**63 - 1}, {"odd": 1.5}]),
    recovery_data=st.sampled_from([{"step": 3}, {}, None]),
    call_id=st.just("CA1"),
    created_at=st.sampled_from(["2025-12-31T23:59:00Z", "0001-01-01T00:00:00Z"]),
    campaign=st.sampled_from([7, "x", {"a": 1}]),
)
SESSION = st.fixed_dictionaries({"id": ID}, optional=HEAD | some(history=st.lists(TURN, max_size=3)))
PATCH = st.fixed_dictionaries({}, optional=HEAD)
TURN_PATCH = st.fixed_dictionaries(
    {}, optional=some(content=st.just("cut"), duration_ms=st.just(5), odd=st.just(1))
)
TIMES = some(heartbeat_timeout_s=SECONDS, max_duration_s=SECONDS)
BESIDE = some(epoch=st.sampled_from([0, 0, 1, 1, 2, 3]), op=st.sampled_from(["op-1", "op-2"]))
NAMED = some(session_id=ID)

VERBS: dict[str, tuple[Members, Members]] = {
    "session.save": (
        some(session=SESSION),
        some(if_version=VERSION, labels=LABELS | ODD_LABELS, user=USER) | TIMES | BESIDE,
    ),
    "session.load": (NAMED, some(history=HISTORY)),
    "session.delete": (NAMED, BESIDE),
    "session.list_active": ({}, some(limit=st.sampled_from([1, 2]), scope=SCOPE, cursor=CURSOR)),
    "session.list": (
        {},
        some(
            status=STATUS,
            state=st.sampled_from(["live", "suspect", "orphan", "restored"]),
            labels=LABELS,
            owner=WORKER_ID,
            limit=st.sampled_from([1, 2]),
            ended_since=st.just("2026-01-01T00:00:05Z"),
            scope=SCOPE,
            provider=st.sampled_from(["sip", "twilio"]),
            call_id=st.just("CA1"),
            users=st.booleans(),
            cursor=CURSOR,
        ),
    ),
    "session.heartbeat": (NAMED, {}),
    "session.add_turn": (NAMED, some(turn=TURN, turns=st.lists(TURN, max_size=3)) | BESIDE),
    "session.amend_turn": (
        NAMED | some(set=TURN_PATCH),
        some(index=st.sampled_from([0, -1, 1, 9]), role=st.sampled_from(["user", "agent"])) | BESIDE,
    ),
    "session.record_interruption": (NAMED, BESIDE),
    "session.update": (NAMED | some(set=PATCH), some(if_version=VERSION) | BESIDE),
    "session.end": (
        NAMED,
        some(reason=st.sampled_from(["hangup", "failed"]), detail=st.sampled_from([{"cause": 16}, [1.0], "ü"]))
        | BESIDE,
    ),
    "session.claim": (NAMED | some(worker_id=WORKER_ID), some(steal=st.booleans(), history=HISTORY) | TIMES),
    "session.claim_next": (some(worker_id=WORKER_ID), some(labels=LABELS, history=HISTORY)),
    "session.release": (NAMED | some(epoch=st.sampled_from([0, 1, 2, 3])), {}),
    "quarantine.list": ({}, some(limit=st.sampled_from([1, 2]), cursor=st.sampled_from(["0", "7", "x"]))),
    "quarantine.show": (NAMED, {}),
    "quarantine.retry": ({}, some(session_ids=st.lists(ID, max_size=2))),
    "quarantine.drop": (NAMED, {}),
    "worker.list": ({}, some(limit=st.sampled_from([1, 2]), cursor=CURSOR)),
    "server.flush": (some(session_ids=st.lists(ID, max_size=3)), some(timeout_s=st.sampled_from([1, 5.5]))),
    "server.ping": ({}, {}),
    "server.check": ({}, some(repair=st.booleans())),
    "server.drain": (some(on=st.sampled_from([False, False, True])), {}),
}
BEATS_OF_SEVERAL = st.fixed_dictionaries({"session_ids": st.lists(ID, max_size=4)})
METHODS = [*VERBS, *["session.save", "session.claim", "session.heartbeat", "session.add_turn", "session.end"] * 3]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request; one in four has something wrong in it."""
    method = draw(st.sampled_from(METHODS))
    needed, optional = VERBS[method]
    params = draw(st.fixed_dictionaries(needed, optional=optional))
    if method == "session.heartbeat" and draw(st.booleans()):
        params = draw(BEATS_OF_SEVERAL)
    return spoilt(draw, method, params) if draw(st.integers(0, 3)) == 3 else request(method, params)


def spoilt(draw: st.DrawFn, method: str, params: dict[str, Any]) -> bytes:
    """A request with something wrong in its params, in what they contain or in its envelope; or a broken line."""
    where = draw(st.sampled_from(["params", "params", "inside", "inside", "envelope", "line"]))
    if where == "envelope":
        name = draw(st.sampled_from(["id", "jsonrpc", "method", "params", "more", "none"]))
        if name == "none":  # a notification
            return dump({"jsonrpc": "2.0", "method": method, "params": params})
        return request(method, params, {name: draw(ODD)})
    if where == "line":
        line = request(method, params)
        cut = draw(st.integers(0, len(line)))
        return line[:cut] + draw(st.sampled_from([b"", b" ", b"\xff", b"}", line]))
    inner = [name for name, value in params.items() if isinstance(value, dict)]
    target = params
    if where == "inside" and inner:
        within = draw(st.sampled_from(inner))
        target = params[within] = {**params[within]}
    name = draw(st.sampled_from([*target, "detail", "history", "id", "epoc", "Status", "extra"]))
    if draw(st.booleans()):
        target[name] = draw(ODD)
    else:
        target.pop(name, None)
    return request(method, params)


WHO = st.sampled_from(WORKERS)
STEPS = st.one_of(
    *[st.tuples(WHO, requests())] * 6,
    st.tuples(st.just("seconds"), st.sampled_from([1, 4, 5, 29, 30, 31, 61])),
    st.tuples(st.just("reconnect"), st.sampled_from(WORKERS[:2])),
    st.tuples(st.just("disconnect"), st.sampled_from(WORKERS[:2])),
    st.tuples(st.just("kill"), st.sampled_from(WORKERS[:2])),
)
BEGIN: list[tuple[str, Any]] = [
    *(("reconnect", name) for name in WORKERS),
    ("w1", request("session.save", {"session": {"id": "a", "status": "active"}, "labels": {"app": "sales"}})),
    ("", request("session.save", {"session": {"id": "b", "history": [{"role": "user", "content": "hi"}]}})),
]

ENVELOPE = re.compile(rb'\{"jsonrpc":"2.0","id":(.*?),"(?:error|result)":')

MISSING = re.compile(rb'"missing":\[(.*?)\]')

CURSOR_MEMBER = re.compile(rb'"next_cursor":("[^"]*")')

PID = re.compile(rb'"pid":\d+')

FLUSHED = re.compile(rb'"flushed":\d+')

PIDS = count(1)

# -- both sides -------------------------------------------------------------------------------------------------


class Daemon:
    """The daemon's core with a store, and its clients."""

    def __init__(self) -> None:
        self.core = Core(reaper=ReaperConfig(**SPANS))
        self.clients: dict[str, Lines] = {}
        self.processes: dict[str, tuple[Process, int, int]] = {}
        """By worker: its process, and a pipe that stands for its pidfd."""

    def connect(self, name: str) -> None:
        client = self.clients[name] = Lines(self.core)
        if name in WORKERS[:2]:
            if name not in self.processes:
                self.processes[name] = (Process(next(PIDS)), *os.pipe())
            client.process, client.pidfd, _ = self.processes[name]

    async def kill(self, name: str) -> None:
        """The worker's process exits, and so its connection closes."""
        if name in self.processes:
            _, reading, writing = self.processes.pop(name)
            os.close(writing)
            await self.settle()
            os.close(reading)

    async def close(self) -> None:
        for name in [*self.processes]:
            await self.kill(name)
        self.core.engine.close()
        await self.core.read_through.close()

    def disconnect(self, name: str) -> None:
        self.clients.pop(name).connection.connection_lost(None)

    async def ask(self, name: str, line: bytes) -> bytes:
        client = self.clients[name]
        client.connection.data_received(line + b"\n")
        await self.settle()
        return client.take()

    async def settle(self) -> None:
        """Let the loop see to all that is ready, and the store have what was changed."""
        for _ in range(6):
            await asyncio.sleep(0)
        await self.core.writer.write_round()
        await asyncio.sleep(0)

    async def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.core.clock.advance(1)
            await self.tick()

    async def tick(self) -> None:
        while self.core.reaper.tick(self.core.clock.live()):
            pass
        await self.settle()


class Lines(FakeClient):
    """A client that keeps what it is sent as it is."""

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def take(self) -> bytes:
        taken, self.writes = b"".join(self.writes), []
        return taken


class Memory:
    """A MemoryStore's sessions, and views of them."""

    def __init__(self) -> None:
        store = MemoryStore(Clock(START), worker_id=None, **SPANS)
        self.clock, self.sessions = store.clock, store._sessions
        self.sessions.engine.events.stream = "stream-1"
        self.views: dict[str, View] = {}
        self.processes: dict[str, ViewProcess] = {}

    def connect(self, name: str) -> None:
        view = self.views[name] = self.sessions.new_view(name or None)
        self.processes[name] = view.process

    def kill(self, name: str) -> None:
        if name in self.processes:
            self.sessions.kill(self.processes.pop(name))

    def disconnect(self, name: str) -> None:
        self.sessions.close_views(self.views.pop(name))

    def ask(self, name: str, line: bytes, request_id: bytes) -> bytes:
        """The reply; of an error with the id that the daemon has read."""
        try:
            return self.sessions.answer(self.views[name], line + b"\n")
        except WireError as error:
            return error_line(request_id, error)


class Told(View):
    """A view that keeps the events it is sent."""

    def __init__(self) -> None:
        super().__init__(ViewProcess())
        self.events = b""

    def send(self, data: bytes, /) -> None:
        self.events += data

    def take(self) -> bytes:
        taken, self.events = self.events, b""
        return taken


async def compare(steps: list[tuple[str, Any]]) -> None:
    """Take these steps on both sides, and compare after each."""
    daemon, memory = Daemon(), Memory()
    told, subscribe = Told(), request("events.subscribe", {"types": sorted(TYPES)})
    daemon.connect("events")
    assert await daemon.ask("events", subscribe) == memory.sessions.answer(told, subscribe)
    version, cursor = b"1", b'"0"'
    try:
        for kind, what in BEGIN + steps:
            if kind == "seconds":
                await daemon.pass_seconds(what)
                memory.clock.advance(what)
            elif kind == "disconnect":
                await hang_up(daemon, memory, what)
            elif kind == "kill":
                await daemon.kill(what)
                memory.kill(what)
                await hang_up(daemon, memory, what)
            elif kind == "reconnect":
                await hang_up(daemon, memory, what)
                daemon.connect(what)
                memory.connect(what)
                register = request("worker.register", {"worker_id": what, "instance": f"i-{what}"})
                if what:
                    assert await daemon.ask(what, register) == memory.ask(what, register, b"7")
            elif kind in daemon.clients:
                line = what.replace(b"@version", version).replace(b"@cursor", cursor)
                theirs = await daemon.ask(kind, line)
                answered = ENVELOPE.match(theirs)
                ours = memory.ask(kind, line, answered[1] if answered else b"7")
                if theirs:  # a notification, and a blank line, have no reply
                    assert comparable(ours, line) == comparable(theirs, line), line
                assert b'"kind":"internal"' not in theirs, line
                found = re.search(rb'"version":(\d+)', theirs)
                version = found[1] if found else version
                found = CURSOR_MEMBER.search(theirs)
                cursor = found[1] if found else cursor
            await daemon.tick()  # a request may have made a time limit so short that it is over
            memory.sessions.catch_up()
            assert told.take() == daemon.clients["events"].take()
    finally:
        await daemon.close()


def comparable(reply: bytes, line: bytes) -> bytes:
    """A reply without what may differ: the daemon lists a heartbeat's missing sessions in the order in which the
    store has said so, the processes of workers are others, and a flush of all counts those that were not in the
    store, which no session of a MemoryStore ever is."""
    if b"server.flush" in line and b"session_ids" not in line:
        reply = FLUSHED.sub(b'"flushed":0', reply)
    reply = PID.sub(b'"pid":0', reply)
    return MISSING.sub(lambda found: b'"missing":[%b]' % b",".join(sorted(found[1].split(b","))), reply)


async def hang_up(daemon: Daemon, memory: Memory, name: str) -> None:
    """The connection is lost, if there is one."""
    if name in daemon.clients:
        daemon.disconnect(name)
        memory.disconnect(name)
        await daemon.settle()


@pytest.mark.timeout(600)  # what differs has to be shrunk
@settings(max_examples=examples(300))
@given(st.lists(STEPS, min_size=5, max_size=40))
def test_every_reply_and_event_is_the_daemons(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(compare(steps))


def deep(levels: int) -> Raw:
    return Raw(b"[" * levels + b"1" + b"]" * levels)


@pytest.mark.parametrize(
    "odd",
    [
        "y" * 1022, "y" * 1023, "y" * 2000, {"cause": 16}, None, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, deep(50),
        deep(57), deep(61), deep(64), deep(70), Raw(b'"\xff"'), Raw(b'"\\ud800"'), Raw(b"NaN"), Raw(b"1e999"),
    ],
    ids=lambda odd: repr(odd)[:20],
)  # fmt: skip
async def test_odd_documents_are_kept_or_refused_with_the_same_message(odd: Any) -> None:
    params: list[tuple[str, dict[str, Any]]] = [
        ("session.save", {"session": {"id": "c", "extra": odd}}),
        ("session.save", {"session": {"id": "c", "recovery_data": {"odd": odd}}}),
        ("session.save", {"session": {"id": "c", "metrics": {"odd": odd}}}),
        ("session.save", {"session": {"id": "c", "history": [{"role": "user", "odd": odd}]}}),
        ("session.add_turn", {"session_id": "a", "turn": {"role": "user", "content": "x", "odd": odd}}),
        ("session.amend_turn", {"session_id": "a", "set": {"duration_ms": odd}}),
        ("session.update", {"session_id": "a", "set": {"metrics": {"turn_count": odd}}}),
        ("session.end", {"session_id": "a", "detail": odd}),
        ("session.load", {"session_id": "a"}),
        ("session.list", {"status": "ended"}),
        ("session.load", {"session_id": odd}),
        ("session.claim", {"session_id": "a", "worker_id": "w1", "heartbeat_timeout_s": odd}),
    ]
    await compare([("w1", request(*each)) for each in params])


async def test_a_session_that_is_named_twice_is_flushed_once() -> None:
    await compare([("w1", request("server.flush", {"session_ids": ["a", "b", "a"]}))])


async def test_a_line_that_is_too_long_is_refused_with_the_same_message() -> None:
    named = {"session_id": "a", "turn": {"role": "user", "content": ""}}
    spare = LINE_BYTES - len(request("session.add_turn", named) + b"\n")
    lines = []
    for length in (spare, spare + 1):
        named["turn"] = {"role": "user", "content": "x" * length}
        lines.append(request("session.add_turn", named))
    await compare([("w1", line) for line in lines])
