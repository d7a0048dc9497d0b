"""The subjects compared: callstate and its alternatives, with the same operations on the same sessions."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from bench.clients import Client
from bench.documents import CONTENT, DURATION_MS, ROLE
from bench.processes import Server
from callstate_client import SessionState, connect
from callstate_client.client import SidecarStore

Operation = Callable[[str], Awaitable[object]]
"""One request for the session with this id."""

SAVERS: Final = 32
"""Concurrent saves that fill a daemon."""

OPERATIONS: Final = ("heartbeat", "add_turn", "save", "load", "list_active")


class Subject(Protocol):
    """One way to keep the state of calls."""

    name: str
    server: Server

    def operations(self) -> Mapping[str, Operation]:
        """The operations it supports, by the names in OPERATIONS."""

    async def keep(self, documents: Mapping[str, bytes]) -> None:
        """Store exactly these sessions."""

    async def restore(self, session_ids: Iterable[str]) -> None:
        """Give these sessions their old length back."""

    async def turns(self, session_id: str) -> int | None:
        """The length of this session's history; None if it does not matter."""

    async def settle(self) -> float:
        """Wait until the store has everything; returns how long that took, seconds."""


async def connected(path: Path) -> SidecarStore:
    """One more store of this worker: a session saved through one of them can be saved through the next."""
    return await connect(str(path), f"bench-{os.getpid()}")


class Sidecar:
    """callstate: its asyncio client, and a daemon with the same Redis behind it.

    A load includes reading status, metrics and the last turn; a save saves what was loaded before, as with the
    peer. `save_built` saves states whose turns were made in this process, so that each has to be encoded.
    """

    name = "callstate"

    def __init__(self, store: SidecarStore, server: Server) -> None:
        self._store = store
        self.server = server
        self._states: dict[str, SessionState] = {}
        self._built: dict[str, SessionState] = {}

    def operations(self) -> Mapping[str, Operation]:
        """The operations, through the public client."""
        store = self._store

        def add_turn(session_id: str) -> Awaitable[object]:
            return store.add_turn(session_id, ROLE, CONTENT, DURATION_MS)

        def save(session_id: str) -> Awaitable[object]:
            return store.save(self._states[session_id])

        def save_built(session_id: str) -> Awaitable[object]:
            return store.save(self._built_state(session_id))

        async def load(session_id: str) -> object:
            state = await store.load(session_id)
            return state.status, state.metrics.turn_count, state.history[-1].content

        def list_active(_: str) -> Awaitable[object]:
            return store.list_active()

        return {
            "heartbeat": store.update_heartbeat, "add_turn": add_turn, "save": save, "save_built": save_built,
            "load": load, "list_active": list_active,
        }  # fmt: skip

    async def keep(self, documents: Mapping[str, bytes]) -> None:
        """Save them and flush."""
        for session_id, document in documents.items():
            self._states[session_id] = SessionState.from_json(document)
        await self.restore(documents)
        await self.settle()

    def _built_state(self, session_id: str) -> SessionState:
        built = self._built.get(session_id)
        if built is None:
            built = self._built[session_id] = self._states[session_id].copy()
            list(built.history)  # reading a turn makes it a Turn object
        return built

    async def restore(self, session_ids: Iterable[str]) -> None:
        """Save them as they were."""
        waiting = iter(session_ids)

        async def save() -> None:
            for session_id in waiting:
                await self._store.save(self._states[session_id])

        await asyncio.gather(*(save() for _ in range(SAVERS)))

    async def turns(self, session_id: str) -> int | None:
        """The length according to the daemon."""
        return (await self._store.get(session_id, "none")).turn_count

    async def settle(self) -> float:
        """Wait for `server.flush`."""
        began = time.perf_counter()
        flushed = await self._store.flush(timeout_s=60.0)
        if flushed.unflushed:
            raise RuntimeError(f"{flushed.unflushed} sessions were not flushed")
        return time.perf_counter() - began

    async def close(self) -> None:
        """Close the connection."""
        await self._store.close()


class RedisStore:
    """The Go package's RedisStore: one document per session, read and written whole, and a set of the active ids.

    Written to be fast: documents stay dicts, SET and SADD share a round trip, and orjson encodes and decodes.
    """

    def __init__(self, client: Client, server: Server) -> None:
        self.name = f"{client.name} RedisStore"
        self.server = server
        self._client = client
        self._prefix = f"{client.name}:"
        self._active = f"{client.name}:active"
        self._documents: dict[str, bytes] = {}
        self._states: dict[str, dict[str, Any]] = {}

    async def _load(self, session_id: str) -> dict[str, Any]:
        raw = await self._client.get(self._prefix + session_id)
        document: dict[str, Any] = orjson.loads(raw)
        return document

    def _save(self, document: dict[str, Any]) -> Awaitable[object]:
        document["updated_at"] = datetime.now(UTC).isoformat()
        session_id = document["id"]
        return self._client.put(self._prefix + session_id, orjson.dumps(document), self._active, session_id)

    async def _heartbeat(self, session_id: str) -> None:
        await self._save(await self._load(session_id))

    async def _add_turn(self, session_id: str) -> None:
        document = await self._load(session_id)
        at = datetime.now(UTC).isoformat()
        document["history"].append({"role": ROLE, "content": CONTENT, "timestamp": at, "duration_ms": DURATION_MS})
        metrics = document["metrics"]
        metrics["turn_count"] += 1
        metrics["user_speech_duration_ms"] += DURATION_MS
        await self._save(document)

    async def _read(self, session_id: str) -> object:
        document = await self._load(session_id)
        return document["status"], document["metrics"]["turn_count"], document["history"][-1]["content"]

    def operations(self) -> Mapping[str, Operation]:
        """The operations, as the Go package implements them."""

        def save(session_id: str) -> Awaitable[object]:
            return self._save(self._states[session_id])

        def list_active(_: str) -> Awaitable[object]:
            return self._client.members(self._active)

        return {
            "heartbeat": self._heartbeat, "add_turn": self._add_turn, "save": save, "save_built": save,
            "load": self._read, "list_active": list_active,
        }  # fmt: skip

    async def keep(self, documents: Mapping[str, bytes]) -> None:
        """Write them."""
        self._documents.update(documents)
        self._states.update((session_id, orjson.loads(document)) for session_id, document in documents.items())
        await self.restore(documents)

    async def restore(self, session_ids: Iterable[str]) -> None:
        """Write them as they were."""
        for session_id in session_ids:
            document = self._documents[session_id]
            await self._client.put(self._prefix + session_id, document, self._active, session_id)

    async def turns(self, session_id: str) -> int | None:
        """The length of the stored document's history."""
        return len((await self._load(session_id))["history"])

    async def settle(self) -> float:
        """Nothing is waiting to be written."""
        return 0.0


class ByHand:
    """The least one can do by hand: a heartbeat is a ZADD, a turn an RPUSH. No metrics are counted."""

    def __init__(self, client: Client, server: Server) -> None:
        self.name = f"{client.name} by hand"
        self.server = server
        self._client = client

    def operations(self) -> Mapping[str, Operation]:
        """The two operations that don't touch the document."""

        def heartbeat(session_id: str) -> Awaitable[object]:
            return self._client.heartbeat("hand:beats", session_id)

        def add_turn(session_id: str) -> Awaitable[object]:
            at = datetime.now(UTC).isoformat()
            turn = {"role": ROLE, "content": CONTENT, "timestamp": at, "duration_ms": DURATION_MS}
            return self._client.push(f"hand:{session_id}:turns", orjson.dumps(turn))

        return {"heartbeat": heartbeat, "add_turn": add_turn}

    async def keep(self, documents: Mapping[str, bytes]) -> None:
        """Do nothing: appending to a list costs the same whatever its length."""

    async def restore(self, session_ids: Iterable[str]) -> None:
        """Do nothing, as in `keep`."""

    async def turns(self, session_id: str) -> int | None:
        """None: appending costs the same whatever the length."""
        return None

    async def settle(self) -> float:
        """Nothing is waiting to be written."""
        return 0.0
