"""Writes to real stores that fail before or after they are applied, while their sessions go on changing.

Once the store answers again, it has byte for byte what is in memory, and everything that is kept beside it.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from callstate_client.engine.sessions.layout import END, HISTORY
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import write_of
from callstate_client.engine.sessions.stored import StoredSession, StoreTimeoutError
from callstate_client.engine.sessions.writes import Write
from callstate_client.errors import CallstateError
from callstate_sidecar.stores.backend import Backend, WriteResult
from callstate_sidecar.stores.redis import RedisBackend
from callstate_sidecar.stores.sqlite import SqliteBackend
from support.budget import examples
from support.core import HOST, TIME, Core
from support.redis_server import RedisServer

IDS: Final = ("a", "b")
ROUND_S: Final = 6.0
"""More than a store that failed is given before it is tried again."""

TEXT = st.sampled_from(["hello", "é\u2028", '"]},"history":[', "\U0001f600", "x" * 300, "y" * 70_000])
TURN = st.builds(
    lambda role, content, more: {"role": role, "content": content, "timestamp": TIME, "duration_ms": 5} | more,
    st.sampled_from(["user", "agent", "tool"]),
    TEXT,
    st.sampled_from([{}, {}, {"response_ms": 7}, {"odd": {"history": []}}]),
)
OP = st.sampled_from([{}, {"op": "1"}, {"op": "2"}, {"op": "3"}])
PATCH = st.sampled_from([
    {"status": "on_hold"}, {"status": "z" * 60}, {"note": "n" * 48}, {"note": None},
    {"metrics": {"turn_count": 10**9}}, {"recovery_data": {"node": "é" * 40}}, {"call_id": "CA1"},
    {"metrics": {"quality": "q" * 50}},
])  # fmt: skip
REQUEST = st.one_of(
    st.tuples(st.just("session.add_turn"), st.builds(lambda turn, op: {"turn": turn} | op, TURN, OP)),
    st.tuples(st.just("session.add_turn"), st.builds(lambda turns: {"turns": turns}, st.lists(TURN, max_size=40))),
    st.tuples(
        st.just("session.amend_turn"),
        st.builds(lambda text, index: {"set": {"content": text}, "index": index}, TEXT, st.integers(-40, 2)),
    ),
    st.tuples(st.just("session.update"), st.builds(lambda patch, op: {"set": patch} | op, PATCH, OP)),
    st.tuples(st.just("session.heartbeat"), st.just({})),
    st.tuples(st.just("session.claim"), st.just({"worker_id": "w1", "steal": True})),
    st.tuples(st.just("session.release"), st.just({"epoch": 1})),
    st.tuples(st.just("session.end"), st.just({})),
    st.tuples(st.just("session.delete"), st.just({})),
)
REQUESTS = st.lists(st.tuples(st.sampled_from(IDS), REQUEST), max_size=4)
APPLIED = st.sampled_from(["all", "all", "all but the reply", "all but the reply", "some", "nothing"])
STEP = st.one_of(
    st.tuples(st.just("requests"), REQUESTS),
    st.tuples(st.just("silence"), st.sampled_from([1.0, 31.0])),
    st.tuples(st.just("round"), st.tuples(APPLIED, REQUESTS)),
)


RECOVERED: Final[list[tuple[str, Any]]] = [
    ("round", ("all", [])),
    ("silence", 31.0),
    ("round", ("all but the reply", [])),
    ("requests", [("a", ("session.heartbeat", {}))]),
]
"""A suspicion that the store has, and that is over before anybody knows that it has it."""


class Unanswered:
    """A backend whose next write is applied as far as `applied` says, while `meanwhile` happens."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.applied = "all"
        self.meanwhile: Callable[[], Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def write(self, batch: Sequence[Write]) -> list[WriteResult]:
        """Write the batch or a part of it."""
        applied, self.applied = self.applied, "all"
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        results: list[WriteResult] = []
        if applied != "nothing":
            results = await self._backend.write(batch[:1] if applied == "some" else batch)
        if applied != "all":
            raise StoreTimeoutError("no answer")
        return results


@asynccontextmanager
async def opened(kind: str, server: RedisServer) -> AsyncIterator[Backend]:
    """An empty store."""
    if kind == "redis":
        redis = RedisBackend(server.url, prefix=f"{uuid.uuid4()}:", ttl_s=1e6, timeout_s=5, host_id=HOST)
        try:
            yield redis
        finally:
            await redis.close()
        return
    with tempfile.TemporaryDirectory() as directory:
        sqlite = SqliteBackend(Path(directory) / "sessions.db", ttl_s=1e6, host_id=HOST)
        try:
            yield sqlite
        finally:
            await sqlite.close()


async def ask(core: Core, requests: Sequence[tuple[str, tuple[str, dict[str, Any]]]]) -> None:
    for session_id, (method, params) in requests:
        core.clock.at_us += 1
        with suppress(CallstateError):  # no such turn, or it is over
            await core.call(method, session_id=session_id, **params)


async def play(core: Core, store: Unanswered, steps: Sequence[tuple[str, Any]]) -> None:
    for session_id in IDS:
        await core.save(session_id)
    for step, what in steps:
        if step == "requests":
            await ask(core, what)
        elif step == "silence":
            core.advance(what)
        else:
            store.applied, requests = what
            store.meanwhile = lambda requests=requests: ask(core, requests)  # type: ignore[misc]
            await core.writer.write_round()
            store.applied, store.meanwhile = "all", None
            core.clock.advance(ROUND_S)
    for _ in range(8):
        await core.writer.write_round()
        core.clock.advance(ROUND_S)
    assert not core.table.dirty.sessions


def check(session: Session, stored: StoredSession | None) -> None:
    """Compare what the store has with a session in memory."""
    assert stored is not None
    assert stored.document is not None
    doc = session.doc
    end = b"%b%b%b" % (HISTORY, b",".join(doc.chunks), END)
    assert stored.document.endswith(end)
    head = stored.document.removesuffix(end).rstrip(b" ")
    assert head + b"}" == doc.head_json(doc.updated_us)
    meta = write_of(session, HOST).meta
    assert stored.meta == meta
    assert [*meta.ops.items()] == [*session.ops.items()]


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
@given(steps=st.lists(STEP, max_size=25))
@example(steps=RECOVERED)
@settings(max_examples=examples(40))
async def test_a_store_that_answers_again_has_what_is_in_memory(
    kind: str, redis_server: RedisServer, steps: list[tuple[str, Any]]
) -> None:
    async with opened(kind, redis_server) as backend:
        store = Unanswered(backend)
        core = Core(backend=store)  # type: ignore[arg-type]
        await play(core, store, steps)
        for session_id in IDS:
            stored = await backend.read(session_id)
            session = core.table.sessions.get(session_id)
            if session is not None:
                check(session, stored)
            else:  # deleted, or evicted after its end
                assert stored is None or stored.document is None or b'"ended"' in stored.document
