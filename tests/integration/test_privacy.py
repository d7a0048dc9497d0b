"""What was said, numbers and recovery data leave a daemon by `session.load` and by its store, and by nothing else.

A call full of markers is driven through every verb and refused in every way; then the log at level debug, events,
metrics, figures, listings, findings, error replies and the process's surroundings are searched for them.
docs/operations.md has the table of what may be where.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis

from callstate_client.cli import main
from callstate_client.engine.verbs.table import VERBS
from callstate_sidecar.stores.sqlite import SqliteStore
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries
from support.stores import refuse_changes, take_changes
from support.wire import Refused, Wire, request

pytestmark = pytest.mark.system

_PATTERN = Path("/proc/sys/kernel/core_pattern")
CORE_PATTERN = _PATTERN.read_text("ascii").strip() if _PATTERN.exists() else "/cores/core"

SAID, NUMBER, KEPT = "mk-said-5d1f", "+447700900123", "mk-kept-82ac"
SECRETS = (SAID, NUMBER, NUMBER[1:], KEPT)
LABEL, DETAIL = "mk-label-77e0", "mk-detail-1b6c"

TURN = {"role": "user", "content": f"{SAID} one", "tool_calls": [{"arguments": f"{SAID} two"}], "note": SAID}
SESSION = {
    "id": "c1", "provider": "sip", "call_id": "CA1", "from": NUMBER, "to": NUMBER, "status": "active",
    "recovery_data": {KEPT: KEPT, "card": [KEPT]}, "notes": KEPT, "history": [TURN, TURN],
}  # fmt: skip

USUAL: list[tuple[str, dict[str, Any]]] = [
    ("worker.register", {"worker_id": "w1", "instance": "i", "process": "p"}),
    ("session.save", {"session": SESSION, "labels": {"name": LABEL}, "heartbeat_timeout_s": 60.0}),
    ("session.load", {"session_id": "c1", "history": 1}),
    ("session.add_turn", {"session_id": "c1", "turn": TURN}),
    ("session.add_turn", {"session_id": "c1", "turns": [TURN, TURN], "op": "op-1"}),
    ("session.amend_turn", {"session_id": "c1", "set": {"content": SAID, "note": {"x": SAID}}, "index": -1}),
    ("session.record_interruption", {"session_id": "c1"}),
    ("session.update", {"session_id": "c1", "set": {"recovery_data": {"x": KEPT}, "to": NUMBER}}),
    ("session.heartbeat", {"session_ids": ["c1"]}),
    ("session.list", {"status": "active", "labels": {"name": LABEL}, "limit": 10}),
    ("session.list_active", {"limit": 10}),
    ("session.release", {"session_id": "c1", "epoch": 0}),
    ("session.claim_next", {"worker_id": "w1", "labels": {"name": LABEL}}),
    ("session.claim", {"session_id": "c1", "worker_id": "w1", "steal": True}),
    ("worker.list", {}),
    ("quarantine.list", {}),
    ("quarantine.show", {"session_id": "c1"}),
    ("quarantine.retry", {"session_ids": ["c1"]}),
    ("quarantine.drop", {"session_id": "c1"}),
    ("server.ping", {}), ("server.info", {}), ("server.stats", {}), ("server.config", {}),
    ("server.flush", {"session_ids": ["c1"], "timeout_s": 10.0}), ("server.check", {"repair": True}),
    ("server.drain", {"on": True}), ("server.drain", {"on": False}),
    ("session.end", {"session_id": "c1", "reason": "done", "detail": {"why": DETAIL}}),
    ("session.delete", {"session_id": "c1"}),
    ("session.save", {"session": SESSION | {"id": "c2"}}),
    ("server.erase", {"session_id": "c2", "end": True}),
]  # fmt: skip
"""A call's life, every verb in it; events are subscribed to beside it."""

SHOWING = ("session.load", "session.list", "session.claim", "session.claim_next", "quarantine.show")
"""The verbs whose results have what is private: whoever may connect may read."""


class Place(NamedTuple):
    """A daemon and its Redis, if it has one."""

    daemon: Daemon
    server: RedisServer | None


LOG_ROOM, LARGE = 200_000, 20_000
"""Bytes: what may be logged while the journal is full, and what it takes to fill it."""

NAMES = {"session_id", "session_ids", "id", "worker_id", "instance", "process", "op", "labels", "reason", "call_id"}
"""Members that are names by their meaning. They may be in logs, and clients must not make them of numbers."""


@pytest.fixture(scope="module", params=["sqlite-json", "redis-text"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A daemon that logs all it can, in either format, over either store."""
    kind, _, style = request.param.partition("-")
    with RedisServer(binaries()["valkey"]) if kind == "redis" else nullcontext() as server:
        settings = {
            "log.level": "debug", "log.format": style, "log.burst": 0, "limits.line_bytes": 65536,
            "limits.session_bytes": 32768, "store.timeout_s": 0.5,
        }  # fmt: skip
        daemon = Daemon(store=server.url if server else None)
        settings["metrics.listen"] = str(daemon.root / "metrics")
        daemon.args += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        try:
            yield Place(daemon.start(), server)
        finally:
            daemon.close(expect="the store|the journal")


@pytest.fixture
def daemon(place: Place) -> Daemon:
    return place.daemon


@pytest.fixture
def wire(daemon: Daemon) -> Iterator[Wire]:
    with Wire(daemon.socket) as connection:
        yield connection


def found(text: str) -> list[str]:
    """The lines with something private in them, cut to what is around it."""
    return [
        line[max(line.find(word) - 200, 0) :][:400]
        for line in text.splitlines()
        for word in SECRETS
        if word in line
    ]


def faults(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Each place in params that is no name, with what it must not be."""
    if path:
        for wrong in (SAID, {SAID: SAID}, [SAID], {"content": SAID, "role": [KEPT]}):
            yield path, wrong
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        if name not in NAMES:
            yield from faults(member, (*path, name))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of params with another value in one place."""
    if not path:
        return new
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def broken_lines() -> Iterator[bytes]:
    """Lines that are no request, with markers in them."""
    line = request(7, "session.save", {"session": SESSION})[:-1]
    yield from (line[:length] for length in range(1, len(line), 7))
    yield from (line + b"}", line * 2, line[1:])
    yield line.replace(SAID.encode(), SAID.encode() + b"\xff")
    yield line.replace(SAID.encode(), SAID.encode() + b"\\ud800")
    yield line.replace(b'"params"', b'"%b":1,"params"' % SAID.encode())
    yield line.replace(b'"id": 7', b'"id": {"x": "%b"}' % SAID.encode())
    yield line.replace(b"[", b"[" * 100 + b'"%b",' % SAID.encode(), 1)
    yield line.replace(b'"active"', b"1e999").replace(b'"sip"', b"123456789012345678901234567890")
    yield line.replace(b"one", b"one " * 40_000)  # too long a line
    yield line.replace(b"one", b"one " * 10_000)  # too large a session
    yield line.replace(b'"content"', b'"Content"').replace(b'"status"', b'"STATUS"')


def test_the_usual_requests_are_all_verbs() -> None:
    assert {method for method, _ in USUAL} | {"events.subscribe"} == set(VERBS)


def test_a_calls_life_leaves_nothing_private(daemon: Daemon, wire: Wire) -> None:
    said = []
    with Wire(daemon.socket) as events:
        types = ["turn", "created", "ended", "deleted", "claimed", "released", "orphaned", "worker.joined"]
        events.call("events.subscribe", types=types)
        for method, params in USUAL:
            with suppress(Refused):
                result = wire.call(method, **params)
                said.append("" if method in SHOWING else json.dumps(result))
        said.append(events.line().decode())
        while '"deleted"' not in said[-1]:
            said.append(events.line().decode())
    assert any('"turn"' in line for line in said)
    assert LABEL in "".join(said), "labels are there for whom they concern"
    said.append(scraped(daemon.root / "metrics"))
    assert "callstate_" in said[-1]
    assert found("\n".join(said) + daemon.log() + surroundings(daemon)) == []
    assert LABEL not in daemon.log()
    assert DETAIL not in "".join(said) + daemon.log()


def scraped(path: Path) -> str:
    """What Prometheus gets."""
    curl = ["curl", "--silent", "--unix-socket", str(path), "http://localhost/metrics"]
    return subprocess.run(curl, capture_output=True, text=True, check=True).stdout


def surroundings(daemon: Daemon) -> str:
    """What others can see of the process: its command line, names, and the paths of its files."""
    assert daemon.process is not None
    proc = Path(f"/proc/{daemon.process.pid}")
    texts = [(proc / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ", "comm")]
    links = [str(link.readlink()) for link in (proc / "fd").iterdir() if link.is_symlink()]
    return "\n".join(texts + links)


def test_refused_requests_leave_nothing_private(daemon: Daemon, wire: Wire) -> None:
    said = []
    for method, params in USUAL:
        if method not in ("worker.register", "server.drain", "server.erase"):
            wire.call("session.save", session=SESSION)
            for path, wrong in faults(params):
                reply = wire.ask(request(1, method, replaced(params, path, wrong))[:-1])
                if "error" in reply:
                    said.append(json.dumps(reply))
            reply = wire.ask(request(1, method, params | {SAID: SAID})[:-1])
            assert "error" in reply
    for line in broken_lines():
        with Wire(daemon.socket) as broken:
            broken.send(line + b"\n")
            said.append(broken.line().decode())
    assert len(said) > 200
    assert found(daemon.log()) == []
    assert found("\n".join(said)) == []


@pytest.mark.parametrize(
    "line",
    ["ls", "ls --all", "stats", "info", "health", "workers", "quarantine ls", "doctor", "config", "ping", "end c1"],
)
def test_commands_show_nothing_private(
    daemon: Daemon, wire: Wire, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """But for those that are for it: `show`, `export`, `top`, `ls --json`, and what `--show-numbers` asks for."""
    wire.call("session.save", session=SESSION, labels={"name": LABEL})
    for style in ([],) if line.startswith("ls") else ([], ["--json"]):
        main(["--socket", str(daemon.socket), *line.split(), *style])
        out, err = capfd.readouterr()
        assert out + err
        assert found(out + err) == []


class Trouble:
    """States in which the daemon can't do what it is asked for."""

    def __init__(self, daemon: Daemon, server: RedisServer | None) -> None:
        self.daemon = daemon
        self.server = server

    def away(self, wire: Wire) -> None:
        """The store does not answer, or refuses."""
        if self.server is None:
            refuse_changes(self.daemon.state_dir / "callstate.db")
        else:
            self.server.pause()
        change(wire)
        with suppress(Refused):
            wire.call("server.flush", timeout_s=0.7)
        with suppress(Refused):
            wire.call("session.load", session_id="other")
        with suppress(Refused):
            wire.call("server.erase", session_id="c1", end=True, timeout_s=0.3)
        wire.call("session.save", session=SESSION)
        if self.server is None:
            take_changes(self.daemon.state_dir / "callstate.db")
        else:
            self.server.resume()

    def refused(self, wire: Wire) -> None:
        """The store refuses this session."""
        self.overwrite("c1", None)
        change(wire)
        with suppress(Refused):
            wire.call("server.flush", timeout_s=1.0)
        self.overwrite("c1", json.dumps(SESSION).encode())

    def foreign(self, wire: Wire) -> None:
        """Other software has changed the document, and has written one that is none."""
        document = SESSION | {"history": [TURN, TURN, TURN], "updated_at": "2030-01-01T00:00:00Z"}
        self.overwrite("c1", json.dumps(document).encode())
        change(wire)
        with suppress(Refused):
            wire.call("server.flush", timeout_s=2.0)
        for text in (
            SAID,
            f'{{"id":"{SAID}"}}',
            f'{{"id":"c9","history":[{{"content":"{SAID}","timestamp":"{SAID}"}}]}}',
        ):
            self.overwrite("c9", text.encode())
            for method in ("session.load", "session.claim", "session.update", "session.heartbeat", "session.end"):
                params = {"session.claim": {"worker_id": "w1"}, "session.update": {"set": {"to": NUMBER}}}
                with suppress(Refused):
                    wire.call(method, session_id="c9", **params.get(method, {}))
        wire.call("server.check", repair=True)

    def full(self, wire: Wire) -> None:
        """The journal does not take writes."""
        assert self.daemon.process is not None
        pid = self.daemon.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        room = self.daemon.log_path.stat().st_size + LOG_ROOM  # for the log is a file as well
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(Refused, match="not_durable"):
            for _ in range(room // LARGE + 2):
                wire.call(
                    "session.update", session_id="c1", set={"recovery_data": {"x": KEPT * (LARGE // len(KEPT))}}
                )
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)

    def overwrite(self, session_id: str, document: bytes | None) -> None:
        """Put a document where the store has one, as other software would; None: something that is no document."""
        if self.server is not None:
            with Redis.from_url(self.server.url, protocol=2) as raw:
                key = f"voicesession:{session_id}"
                raw.delete(key)
                if document is None:
                    raw.lpush(key, SAID)
                else:
                    raw.set(key, document)
            return
        asyncio.run(self._put(session_id, document or SAID.encode()))

    async def _put(self, session_id: str, document: bytes) -> None:
        async with SqliteStore(self.daemon.state_dir / "callstate.db") as store:
            await store._put(session_id, document, active=True)


def change(wire: Wire) -> None:
    with suppress(Refused):
        wire.call("session.add_turn", session_id="c1", turn=TURN)
    with suppress(Refused):
        wire.call("session.update", session_id="c1", set={"recovery_data": {"x": KEPT}})


def test_troubles_leave_nothing_private(place: Place, wire: Wire) -> None:
    daemon, trouble = place.daemon, Trouble(*place)
    with Wire(daemon.socket) as events:
        events.call("events.subscribe")
        for bring_about in (trouble.away, trouble.refused, trouble.foreign, trouble.full):
            wire.call("session.save", session=SESSION, labels={"name": LABEL})
            wire.call("server.flush", timeout_s=5.0)
            bring_about(wire)
        said = [json.dumps(wire.call(method)) for method in ("server.stats", "quarantine.list", "server.check")]
        wire.call("session.save", session={"id": "last"})
        said.append(events.line().decode())
        while '"last"' not in said[-1]:
            said.append(events.line().decode())
    assert found("\n".join(said) + daemon.log()) == []
    for event in ("store_refused", "journal_full", "foreign_write_set_aside"):
        assert event in daemon.log()
    daemon.kill()  # and what a start over all this says
    daemon.start()
    assert found(daemon.log()) == []


class WithCores(Daemon):
    """A daemon in a directory of its own, in which the kernel would leave a core file."""

    def command(self) -> list[str]:
        return ["sh", "-c", 'ulimit -c unlimited; cd "$0"; exec "$@"', str(self.root), *super().command()]

    def cores(self) -> list[Path]:
        return [path for path in self.root.glob("core*") if SAID.encode() in path.read_bytes()]


@pytest.mark.skipif("/" in CORE_PATTERN or "|" in CORE_PATTERN, reason="core files go to another place here")
@pytest.mark.parametrize("allowed", ["false", "true"])
def test_a_daemon_that_is_aborted_leaves_no_core_file_unless_they_are_allowed(allowed: str) -> None:
    daemon = WithCores("--set", f"server.core_dumps={allowed}")
    try:
        daemon.start()
        with Wire(daemon.socket) as wire:
            wire.call("session.save", session=SESSION)
        assert daemon.end_with(signal.SIGABRT) == -signal.SIGABRT
        assert found(daemon.log()) == []
        assert bool(daemon.cores()) == (allowed == "true")
    finally:
        daemon.close()
