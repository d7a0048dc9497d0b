"""Whatever is done to a call, and however it is flushed, Go reads in the store what the daemon gives a client."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from callstate_client.errors import ConflictError, InvalidParamsError
from callstate_sidecar.stores.redis import RedisBackend
from callstate_sidecar.stores.sqlite import SqliteBackend, SqliteStore
from support.budget import examples
from support.core import HOST, Core
from support.go_reader import read_as_go
from support.redis_server import RedisServer

TEXT = st.text(max_size=40) | st.sampled_from(['"]}', ',"history":[', "\\", "é\u2028", "x" * 700])
MEMBER = st.sampled_from(["confidence", "x", "tool_calls", "größe", "note"])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(MEMBER, inner, max_size=2),
    max_leaves=4,
)
TURN = st.builds(
    lambda role, content, ms, extra: (
        extra | {"role": role, "content": content, "duration_ms": ms, "timestamp": "2026-01-01T00:00:00.123456789Z"}
    ),
    st.sampled_from(["user", "agent", "tool"]),
    TEXT,
    st.integers(0, 2**40),
    st.dictionaries(MEMBER, VALUE, max_size=2),
)

STEP = st.one_of(
    st.tuples(st.just("session.add_turn"), st.fixed_dictionaries({"turn": TURN})),
    st.tuples(st.just("session.add_turn"), st.fixed_dictionaries({"turn": TURN})),
    st.tuples(
        st.just("session.amend_turn"),
        st.fixed_dictionaries({"set": st.fixed_dictionaries({"content": TEXT}), "index": st.integers(-3, 3)}),
    ),
    st.tuples(st.just("session.record_interruption"), st.just({})),
    st.tuples(
        st.just("session.update"),
        st.fixed_dictionaries({
            "set": st.fixed_dictionaries({}, optional={
                "status": st.sampled_from(["active", "on_hold", "transferring", "y" * 60]),
                "recovery_data": st.dictionaries(MEMBER, VALUE, max_size=3),
                "call_id": st.sampled_from(["CA1", "CA2"]),
                "note": VALUE,
                "metrics": st.fixed_dictionaries({"first_response_ms": st.integers(0, 10**9)}),
            })
        }),
    ),
    st.tuples(st.just("flush"), st.just({})),
    st.tuples(st.just("flush"), st.just({})),
)  # fmt: skip


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


async def flush(core: Core) -> None:
    """Write what is dirty, again and again where a patch did not fit."""
    while core.table.dirty.marks:
        await core.writer.write_round()


async def loaded(core: Core) -> dict[str, Any]:
    """The session as a client gets it."""
    session: dict[str, Any] = (await core.call("session.load", session_id="a"))["session"]
    return read_as_go(json.dumps(session).encode())


@given(steps=st.lists(STEP, max_size=12))
@settings(max_examples=examples(30))
async def test_go_reads_in_redis_what_a_client_is_given(
    redis_server: RedisServer, steps: list[tuple[str, dict[str, Any]]]
) -> None:
    prefix = f"{uuid.uuid4()}:"
    backend = RedisBackend(redis_server.url, prefix=prefix, ttl_s=1000, timeout_s=5, host_id=HOST)
    async with Redis.from_url(redis_server.url, protocol=2) as raw:
        core = Core(backend=backend)
        await play(core, steps)
        assert read_as_go(await raw.get(prefix + "a") or b"") == await loaded(core)
        await backend.close()


@given(steps=st.lists(STEP, max_size=12))
@settings(max_examples=examples(30))
async def test_go_reads_in_sqlite_what_a_client_is_given(
    directory: Path, steps: list[tuple[str, dict[str, Any]]]
) -> None:
    path = directory / f"{uuid.uuid4()}.db"
    backend = SqliteBackend(path, ttl_s=1000, host_id=HOST)
    core = Core(backend=backend)
    await play(core, steps)
    stored = await backend.read("a")
    assert stored is not None
    assert read_as_go(stored.document or b"") == await loaded(core)
    async with SqliteStore(path) as store:
        assert read_as_go((await store.load("a")).to_json())["history"] == (await loaded(core))["history"]
    await backend.close()


async def test_turns_are_flushed_as_patches_here(directory: Path) -> None:
    """Otherwise the tests above would show nothing of them."""
    path = directory / f"{uuid.uuid4()}.db"
    backend = SqliteBackend(path, ttl_s=1000, host_id=HOST)
    turn = {"role": "user", "content": "hello", "duration_ms": 1, "timestamp": "2026-01-01T00:00:00Z"}
    await play(Core(backend=backend), [("flush", {}), ("session.add_turn", {"turn": turn})] * 3)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM document_tail").fetchone() == (3,)
    await backend.close()


async def play(core: Core, steps: list[tuple[str, dict[str, Any]]]) -> None:
    """Begin a call, do this to it, and flush it."""
    await core.call("session.save", session={"id": "a", "status": "active"})
    for method, params in steps:
        if method == "flush":
            await flush(core)
            continue
        with suppress(ConflictError, InvalidParamsError):  # no such turn, or nothing that may be set
            await core.call(method, session_id="a", **params)
    await flush(core)


@pytest.mark.parametrize(
    ("document", "member", "value"),
    [
        (b'{"ID":"a","id":"b"}', "id", "b"),
        (b'{"id":"b", "Status" : "active" , "STATUS":null}', "status", "active"),
        (b'{"history":[{"role":"user"}]   ,"history":[]}', "history", []),
        (b'{"recovery_data":{"a":1},"Recovery_Data":{"b":2}}', "recovery_data", {"a": 1.0, "b": 2.0}),
        (b'{"unknown":{"id":"z"},"id":"a"}', "id", "a"),
    ],
)
def test_the_reader_reads_as_go_does(document: bytes, member: str, value: object) -> None:
    assert read_as_go(document)[member] == value


@pytest.mark.parametrize("document", [b"{} {}", b'{"metrics":{"turn_count":1.5}}', b'{"id":1}', b'{"history":{}}'])
def test_documents_that_go_refuses_are_refused(document: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        read_as_go(document)
