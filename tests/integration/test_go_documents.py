"""What Go's encoding/json writes from the package's types, through the daemon, its journal, its store, and back.

No Go runs here. What it makes of a text is written down in `model.go_json`, with its sources; here it is
enough that what is passed through comes out as the very bytes that went in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest
from redis.asyncio import Redis

from callstate_client.client import connect
from callstate_client.errors import UnreadableError
from callstate_client.model import SessionState
from callstate_client.model.documents import read_stored
from callstate_sidecar.stores.redis import RedisStore
from callstate_sidecar.stores.sqlite import SqliteStore
from support.daemon import Daemon
from support.documents import UNREADABLE
from support.redis_server import RedisServer

pytestmark = pytest.mark.system

DEPTH = 9_997
WILD = {
    "uint64": b'{"big":18446744073709551615,"bigger":9223372036854775808}',
    "floats as Go writes them": b'{"x":100000000000000000000,"y":1e+21,"z":-0,"w":1e-7}',
    "deep object": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "deep array": b'{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}",
    "escapes": b'{"html":"\\u003cb\\u003e\\u0026","line":"\\u2028","bad":"\\ufffd","nul":"\\u0000"}',
    "names of ours in other cases": b'{"Status":1,"HISTORY":[],"status":2}',
}
LONG = "x" * 65
TIMES = b'"created_at":"0000-03-01T00:00:00Z","updated_at":"2024-05-01T10:00:03.123456789+02:00"'


def document(session_id: str, recovery: bytes) -> bytes:
    return (
        b'{"id":"%b",%b,"provider":"%b","direction":"","from":"","to":"","status":"%b","history":[{"role":"%b",'
        b'"content":"","timestamp":"0000-01-01T00:00:00Z","duration_ms":-3}],"metrics":{"turn_count":1,'
        b'"interruption_count":0,"user_speech_duration_ms":0,"agent_speech_duration_ms":0},"recovery_data":%b}'
    ) % (session_id.encode(), TIMES, LONG.encode(), LONG.encode(), LONG.encode(), recovery)


class Behind(NamedTuple):
    """A daemon over a store, the store by itself, and its bytes."""

    daemon: Daemon
    store: RedisStore | SqliteStore
    raw: Callable[[str], Awaitable[bytes]]


@pytest.fixture(params=["sqlite", "redis"])
async def behind(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[Behind]:
    async with AsyncExitStack() as stack:
        daemon = Daemon(store=redis_server.url if request.param == "redis" else None)
        stack.callback(daemon.close)
        await daemon.in_thread("start")
        store: RedisStore | SqliteStore
        if request.param == "sqlite":
            store = await stack.enter_async_context(SqliteStore(daemon.state_dir / "callstate.db"))
        else:
            client = await stack.enter_async_context(Redis.from_url(redis_server.url, protocol=2))
            await client.flushall()
            store = await stack.enter_async_context(RedisStore.from_url(redis_server.url))

        async def raw(session_id: str) -> bytes:
            found = await store._get(session_id)
            assert found is not None
            return found[0]

        yield Behind(daemon, store, raw)


@pytest.mark.asyncio(loop_factories=["uvloop"])  # as the daemon's: what is asked is what becomes of documents
async def test_documents_by_go_survive_every_step_and_the_way_back(behind: Behind) -> None:
    wild = {f"go-{n}": recovery for n, recovery in enumerate(WILD.values())}
    for session_id, recovery in wild.items():
        await behind.store._put(session_id, document(session_id, recovery), active=True)
    async with connect(behind.daemon.socket) as store:
        for session_id in wild:
            by_itself = await behind.store.load(session_id)
            loaded = await store.load(session_id)
            assert (loaded.status, loaded.provider, loaded.history[0].role) == (LONG, LONG, LONG)
            assert loaded.to_json() == by_itself.to_json()
            assert TIMES in loaded.to_json()
            assert await store.add_turn(session_id, "user", "hello", 900) > 0
            await store.update(session_id, call_id="CA1")
        assert {record.state.id async for record in store.sessions()} == {*wild}
    await behind.daemon.in_thread("kill")
    await behind.daemon.in_thread("start")
    async with connect(behind.daemon.socket) as store:
        for session_id, recovery in wild.items():
            assert (await store.load(session_id)).history[1].content == "hello"
            await store.amend_turn(session_id, index=0, content="amended")
            await store.record_interruption(session_id)
            await store.end(session_id)
            await store.flush()
            await read_back(behind, await store.load(session_id), recovery)


async def read_back(behind: Behind, last: SessionState, recovery: bytes) -> None:
    """What the store has is what the daemon has, and what was passed through is as it was."""
    written = await behind.raw(last.id)
    assert b'"recovery_data":' + recovery in written
    parts = read_stored(written, last.id)
    assert (parts.head.status, parts.head.call_id, parts.head.provider) == ("ended", "CA1", LONG)
    assert (parts.turn_count, parts.metrics.turn_count, parts.metrics.interruption_count) == (2, 2, 1)
    assert b'"timestamp":"0000-01-01T00:00:00Z","duration_ms":-3' in parts.history
    assert (await behind.store.load(last.id)).to_json() == last.to_json()
    await behind.store.save(last)
    assert SessionState.from_json(await behind.raw(last.id)).to_json() == last.to_json()


async def test_an_unreadable_document_does_not_affect_others(behind: Behind) -> None:
    unreadable = {
        f"a{n}": data.replace(b'"id":"a"', b'"id":"a%d"' % n) for n, data in enumerate(UNREADABLE.values())
    }
    for session_id, data in unreadable.items():
        await behind.store._put(session_id, data, active=True)
        with pytest.raises(UnreadableError):
            await behind.store.load(session_id)
    async with connect(behind.daemon.socket) as store:
        for session_id, data in unreadable.items():
            with pytest.raises(UnreadableError) as caught:
                await store.load(session_id)
            with pytest.raises(UnreadableError):
                await store.update_heartbeat(session_id)
            with pytest.raises(UnreadableError):
                await store.save(SessionState(session_id))
            assert await behind.raw(session_id) == data
            await store.save(SessionState(session_id), if_version=caught.value.version)
        await store.save(SessionState("b"))
        assert set(await store.list_active()) == {*unreadable, "b"}
        await store.flush()
    for session_id in unreadable:
        assert (await behind.store.load(session_id)).status == "pending"
