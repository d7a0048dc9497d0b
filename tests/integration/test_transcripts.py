"""docs/protocol.md against the daemon and the code: its transcripts are replayed, its tables compared."""

from __future__ import annotations

import asyncio
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_type_hints

import msgspec
import pytest

from callstate_client import protocol
from callstate_client.engine.verbs.table import VERBS
from callstate_client.errors import BY_CODE
from callstate_client.protocol.events import GAP, MEMBERS, TYPES
from callstate_sidecar.config.options import OPTIONS
from callstate_sidecar.stores.sqlite import SqliteStore
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries
from support.stores import refuse_changes
from support.transcripts import HANGS_UP, KINDS, MORE, Player, Transcript, parse
from support.wire import Wire

DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
TRANSCRIPTS = parse(DOCUMENT)
PLAIN = [transcript for transcript in TRANSCRIPTS if not transcript.setup]
STAGED = [transcript for transcript in TRANSCRIPTS if transcript.setup]

UNKNOWN_METHOD = "session.no_such_method"
NEVER_SAID = {"internal"}
"""A fault of the daemon's own."""
SELDOM_SAID = {"store_error", "access"}
"""Result members that no transcript shows: it takes a store that is known to be away, or restricted access."""

PARAMS = {
    "session.save": protocol.SaveParams,
    "session.load": protocol.LoadParams,
    "session.delete": protocol.DeleteParams,
    "session.list_active": protocol.ListActiveParams,
    "session.list": protocol.ListParams,
    "session.heartbeat": protocol.HeartbeatParams,
    "session.add_turn": protocol.AddTurnParams,
    "session.amend_turn": protocol.AmendTurnParams,
    "session.record_interruption": protocol.RecordInterruptionParams,
    "session.update": protocol.UpdateParams,
    "session.end": protocol.EndParams,
    "session.claim": protocol.ClaimParams,
    "session.claim_next": protocol.ClaimNextParams,
    "session.release": protocol.ReleaseParams,
    "worker.register": protocol.RegisterParams,
    "worker.list": protocol.WorkerListParams,
    "events.subscribe": protocol.SubscribeParams,
    "quarantine.list": protocol.QuarantineListParams,
    "quarantine.show": protocol.QuarantineShowParams,
    "quarantine.retry": protocol.QuarantineRetryParams,
    "quarantine.drop": protocol.QuarantineDropParams,
    "server.ping": protocol.NoParams,
    "server.info": protocol.NoParams,
    "server.stats": protocol.NoParams,
    "server.flush": protocol.FlushParams,
    "server.config": protocol.NoParams,
    "server.check": protocol.CheckParams,
    "server.drain": protocol.DrainParams,
    "server.erase": protocol.EraseParams,
}
RESULTS = {
    "session.save": protocol.SaveResult,
    "session.load": protocol.LoadResult,
    "session.claim": protocol.LoadResult,
    "worker.register": protocol.RegisterResult,
    "worker.list": protocol.WorkerListResult,
    "server.config": protocol.ConfigResult,
    "events.subscribe": protocol.SubscribeResult,
    "server.check": protocol.CheckResult,
    "server.drain": protocol.DrainResult,
    "server.erase": protocol.EraseResult,
    "session.list_active": protocol.ListActiveResult,
    "session.list": protocol.ListResult,
    "session.heartbeat": protocol.HeartbeatResult,
    "server.flush": protocol.FlushResult,
    "quarantine.list": protocol.QuarantineListResult,
    "quarantine.show": protocol.QuarantineShowResult,
    "quarantine.retry": protocol.QuarantineRetryResult,
}
OTHERS = {
    "session.load": {"heartbeat_timeout_s", "max_duration_s", "restored", "state", "uid", "gid"},
    "session.claim": {"ended_reason", "ended_detail", "restored", "state", "uid", "gid"},
}
"""Of what a client decodes: members that only the other methods with this result have."""

BY_MEMORY = ("limits.hot_bytes", "limits.reply_bytes_total")
"""Limits whose default depends on the machine's memory, which their rows say."""

AWAY = "unix:///nonexistent/redis.sock"
GONE_WITHIN_S = 10.0


def name_of(transcript: Transcript) -> str:
    return f"line-{transcript.line}-{transcript.heading.replace(' ', '-')}"


# -- replayed -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


@pytest.fixture
def connect(daemon: Daemon) -> Iterator[Callable[[], Wire]]:
    """Makes connections to a daemon that knows no session."""
    yield lambda: Wire(daemon.socket)
    with Wire(daemon.socket) as after:
        for listed in after.call("session.list", limit=10_000)["sessions"]:
            after.call("session.delete", session_id=listed["session"]["id"])


@pytest.mark.parametrize("transcript", PLAIN, ids=name_of)
def test_transcript(transcript: Transcript, connect: Callable[[], Wire]) -> None:
    Player(connect).play(transcript)


STAGES = {
    "store-away": ["--set", "server.shutdown_flush_s=0"],
    "full": ["--set", "limits.sessions=1"],
    "journal-full": [],
    "stopping": ["--set", "server.shutdown_flush_s=3", "--set", "store.flush_interval_s=30"],
    "few-events": ["--set", "limits.events=2"],
    "no-grace": ["--set", "reaper.reconnect_grace_s=0"],
    "restarted": [],
    "unreadable": [],
    "refused": ["--set", "store.flush_interval_s=60"],
}
"""What each set-up's daemon is started with."""


class Stage:
    """A daemon in the state that a transcript's set-up names."""

    def __init__(self, setup: str) -> None:
        self.setup = setup
        self.redis = RedisServer(binaries()["valkey"]) if setup == "stopping" else None
        store = AWAY if setup == "store-away" else None
        if self.redis is not None:
            self.redis.start()
            store = self.redis.url
        self.daemon = Daemon(*STAGES[setup], store=store)
        self.limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    def on_remark(self, number: int) -> None:
        if number:
            return
        if self.redis is not None:
            self.redis.pause()  # it has the session to write, and asks for that as long as it may
            self.daemon.signal(signal.SIGTERM)
            self._wait_until_nobody_listens()
        elif self.setup == "unreadable":
            asyncio.run(self._write_over())
        elif self.setup == "refused":
            refuse_changes(self.daemon.state_dir / "callstate.db")
        elif self.setup == "restarted":
            self.daemon.kill()
            self.daemon.start()
        elif self.setup == "journal-full":
            # no file may grow any further, which to the one who writes looks much like a full disk
            assert self.daemon.process is not None
            pid = self.daemon.process.pid
            self.limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, self.limits[1]))

    async def _write_over(self) -> None:
        async with SqliteStore(self.daemon.state_dir / "callstate.db") as store:
            await store._put("c1", b"somebody's notes", active=True)

    def _wait_until_nobody_listens(self) -> None:
        deadline = time.monotonic() + GONE_WITHIN_S
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(self.daemon.socket))
                except OSError:
                    return
        raise AssertionError("it goes on listening")

    def close(self) -> None:
        if self.setup == "journal-full" and self.daemon.process is not None:
            resource.prlimit(self.daemon.process.pid, resource.RLIMIT_FSIZE, self.limits)
        self.daemon.close(expect="journal can't be written|File too large|disk|the store refuses|not yet in")
        if self.redis is not None:
            self.redis.close()


@contextmanager
def staged(setup: str) -> Iterator[Stage]:
    stage = Stage(setup)
    try:
        stage.daemon.start()
        yield stage
    finally:
        stage.close()


@pytest.mark.system
@pytest.mark.parametrize("transcript", STAGED, ids=name_of)
def test_transcript_of_a_special_state(transcript: Transcript) -> None:
    with staged(transcript.setup) as stage:
        Player(lambda: Wire(stage.daemon.socket), stage.on_remark).play(transcript)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ('S: {"jsonrpc":"2.0","id":1,"result":{"more":1}}', "not in the reply"),
        ('S: {"jsonrpc":"2.0","id":2,"result":{}}', "no such reply"),
        ("S: (nothing)", "not in the transcript"),
    ],
)
def test_a_transcript_that_is_wrong_is_found(said: str, answer: str, connect: Callable[[], Wire]) -> None:
    text = f'```transcript\nC: {{"jsonrpc":"2.0","id":1,"method":"server.ping"}}\n{said}\n```'
    with pytest.raises(AssertionError, match=answer):
        Player(connect).play(parse(text)[0])


# -- complete -------------------------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    """The methods' sections, by method."""
    parts = re.split(r"^### (\S+)\n", DOCUMENT.split("\n## Methods\n")[1].split("\n## ")[0], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str, head: str) -> dict[str, list[str]]:
    """The rows of the table whose header begins with this word: first cell, without backquotes, to the others."""
    found = re.search(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)*)", text, flags=re.MULTILINE)
    rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in (found[1] if found else "").splitlines()]
    return {row[0].strip("` |"): row[1:] for row in rows}


def results(method: str) -> set[str]:
    """The members of a method's results that any transcript shows."""
    members: set[str] = set()
    for transcript in TRANSCRIPTS:
        asked = {m["id"] for m in transcript.sent() if m.get("method") == method and "id" in m}
        for reply in transcript.answered():
            if reply.get("result") and reply["id"] in asked:
                members |= reply["result"].keys() - {MORE}
    return members


def test_the_document_has_a_section_for_each_method_and_for_no_other() -> None:
    assert sections().keys() == VERBS.keys()


@pytest.mark.parametrize("method", VERBS)
def test_each_method_is_shown_in_its_section_with_a_result(method: str) -> None:
    for transcript in TRANSCRIPTS:
        asked = {m.get("id") for m in transcript.sent() if m.get("method") == method}
        if transcript.heading == method and any(r["id"] in asked for r in transcript.answered() if "result" in r):
            return
    raise AssertionError(f"no transcript with a result of {method}")


def test_no_transcript_names_a_method_that_does_not_exist() -> None:
    named = {m["method"] for transcript in TRANSCRIPTS for m in transcript.sent()}
    assert named - {UNKNOWN_METHOD} == VERBS.keys()


def test_each_error_that_can_occur_is_shown() -> None:
    shown = {r["error"]["data"]["kind"] for t in TRANSCRIPTS for r in t.answered() if "error" in r}
    assert shown == {cls.kind for cls in BY_CODE.values()} - NEVER_SAID


@pytest.mark.parametrize("method", VERBS)
def test_parameters_are_those_of_the_code(method: str) -> None:
    fields = msgspec.structs.fields(PARAMS[method])
    rows = table(sections()[method], "param")
    assert rows.keys() == {field.encode_name for field in fields}
    required = {name for name, cells in rows.items() if "required" in cells[0]}
    assert required == {field.encode_name for field in fields if field.required}


def test_parameters_that_may_not_be_null_are_named() -> None:
    sentence = re.search(r"An optional one that is null counts as left out, but for (.*)\.\n", DOCUMENT)
    assert sentence
    optional = {
        field.encode_name
        for params in PARAMS.values()
        for field in msgspec.structs.fields(params)
        if not field.required and field.default is not None
    }
    assert set(re.findall(r"`(\w+)`", sentence[1])) == optional


@pytest.mark.parametrize("method", VERBS)
def test_results_are_those_that_come(method: str) -> None:
    rows = table(sections()["session.claim" if method == "session.claim_next" else method], "result")
    shown = results("session.claim") if method == "session.claim_next" else results(method)
    assert rows.keys() - SELDOM_SAID == shown
    if method in RESULTS:  # what a client decodes
        assert set(get_type_hints(RESULTS[method])) - OTHERS.get(method, set()) <= rows.keys()


def test_errors_are_those_of_the_code() -> None:
    rows = {int(code): cells for code, cells in table(DOCUMENT, "code").items()}
    assert rows.keys() == BY_CODE.keys()
    for code, cls in BY_CODE.items():
        assert rows[code][0] == f"`{cls.kind}`"
        assert rows[code][1] == ("yes" if cls.retryable else "no")


def test_configurable_limits_are_those_of_the_code() -> None:
    units = {"MiB": 1024 * 1024, "s": 1, "": 1}
    rows = re.findall(r"^\| .*`(limits\.[\w.]+)` \| ([\d,]+) ?(\w*) \|", DOCUMENT, flags=re.MULTILINE)
    defaults = {key: option.default for key, option in OPTIONS.items() if key.startswith("limits.")}
    for key in BY_MEMORY:
        assert f"`{key}` | " in DOCUMENT
        del defaults[key]
    assert {key: int(size.replace(",", "")) * units[unit] for key, size, unit in rows} == defaults


def test_events_are_those_of_the_code() -> None:
    text = DOCUMENT.split("\n## Events\n")[1]
    assert table(text, "type").keys() == {*TYPES, GAP}
    assert [*table(text, "member")] == [*MEMBERS]


def test_placeholders_are_those_that_are_defined() -> None:
    assert {kind.strip("<>") for kind in table(DOCUMENT, "kind")} == {*KINDS, "filler N"}


def test_set_ups_are_explained() -> None:
    explanation = DOCUMENT.split("## How to read the transcripts")[1].split("\n## ")[0]
    assert {t.setup for t in STAGED} == set(re.findall(r"`([a-z-]+)` \(", explanation))


def test_hanging_up_is_shown() -> None:
    assert any(t.steps[-1].text == HANGS_UP for t in TRANSCRIPTS)
