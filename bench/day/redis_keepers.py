"""Two ways to keep calls in Redis by redis-py: as the Go package does, and the best one can do by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from redis.asyncio import BlockingConnectionPool, Redis, UnixDomainSocketConnection

from bench.clients import TTL_S
from bench.documents import DURATION_MS
from callstate_client import SessionState

MAX_CONNECTIONS: Final = 64
"""Of a worker's pool; requests beyond that wait for a connection."""

SILENT_S: Final = 30.0
"""By hand, a call is given to another worker after this long without a heartbeat: callstate's default."""


def _redis(path: Path) -> Any:
    pool = BlockingConnectionPool(
        MAX_CONNECTIONS, timeout=None, connection_class=UnixDomainSocketConnection, path=str(path)
    )
    return Redis(connection_pool=pool)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content, "timestamp": _now(), "duration_ms": DURATION_MS}


class RedisStore:
    """The Go package's RedisStore in redis-py: every change reads the document and writes it whole."""

    beats = True

    def __init__(self, path: Path) -> None:
        self._redis = _redis(path)

    async def _load(self, session_id: str) -> dict[str, Any]:
        document: dict[str, Any] = orjson.loads(await self._redis.get(f"callsession:{session_id}"))
        return document

    async def _save(self, document: dict[str, Any]) -> None:
        document["updated_at"] = _now()
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(f"callsession:{document['id']}", orjson.dumps(document), ex=TTL_S)
            change = pipe.srem if document["status"] == "ended" else pipe.sadd
            change("callsession:active", document["id"])
            await pipe.execute()

    async def begin(self, state: SessionState) -> str:
        """Save it."""
        await self._save(orjson.loads(state.to_json()))
        return state.id

    async def turn(self, call: str, role: str, content: str) -> None:
        """Load, change, save."""
        document = await self._load(call)
        document["history"].append(_turn(role, content))
        document["metrics"]["turn_count"] += 1
        document["metrics"][f"{role}_speech_duration_ms"] += DURATION_MS
        await self._save(document)

    async def update(self, call: str, recovery_data: Mapping[str, Any]) -> None:
        """Load, change, save."""
        document = await self._load(call)
        document["recovery_data"] = recovery_data
        await self._save(document)

    async def load(self, call: str) -> object:
        """GET."""
        document = await self._load(call)
        return document["status"], document["history"][-1]["content"]

    async def beat(self, call: str) -> None:
        """Load and save."""
        await self._save(await self._load(call))

    async def end(self, call: str) -> None:
        """Load, change, save."""
        document = await self._load(call)
        document["status"] = "ended"
        await self._save(document)

    async def orphans(self) -> AsyncIterator[str]:
        """None: nothing notices that a worker has died."""
        await asyncio.Event().wait()
        yield ""

    async def close(self) -> None:
        """Close the pool."""
        await self._redis.aclose()


REAP: Final = """
local silent = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, 100)
if #silent > 0 then
  redis.call('ZREM', KEYS[1], unpack(silent))
  redis.call('RPUSH', KEYS[2], unpack(silent))
end
return #silent
"""
"""Moves calls without a recent heartbeat to the list that workers take calls from."""

BEATS, ORPHANS = "hand:beats", "hand:orphans"


class ByHand:
    """What a careful team writes in redis-py: a hash and a list per call, a sorted set of heartbeats, Lua to reap.

    Args:
        path: Redis' socket.
        clock: seconds, the same in all workers: the time of heartbeats.
    """

    beats = True

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._redis = _redis(path)
        self._clock = clock
        self._reap = self._redis.register_script(REAP)

    async def begin(self, state: SessionState) -> str:
        """One pipeline."""
        document = orjson.loads(state.to_json())
        turns = [orjson.dumps(turn) for turn in document.pop("history")]
        metrics = document.pop("metrics")
        head = {name: value if isinstance(value, str) else orjson.dumps(value) for name, value in document.items()}
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(f"hand:{state.id}", mapping=head | metrics)
            pipe.expire(f"hand:{state.id}", TTL_S)
            if turns:
                pipe.rpush(f"hand:{state.id}:turns", *turns)
                pipe.expire(f"hand:{state.id}:turns", TTL_S)
            pipe.zadd(BEATS, {state.id: self._clock()})
            await pipe.execute()
        return state.id

    async def turn(self, call: str, role: str, content: str) -> None:
        """One pipeline: the turn, its metrics, the time, a sign of life."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(f"hand:{call}:turns", orjson.dumps(_turn(role, content)))
            pipe.hincrby(f"hand:{call}", "turn_count", 1)
            pipe.hincrby(f"hand:{call}", f"{role}_speech_duration_ms", DURATION_MS)
            pipe.hset(f"hand:{call}", "updated_at", _now())
            await pipe.execute()

    async def update(self, call: str, recovery_data: Mapping[str, Any]) -> None:
        """HSET."""
        changed = {"recovery_data": orjson.dumps(recovery_data), "updated_at": _now()}
        await self._redis.hset(f"hand:{call}", mapping=changed)

    async def load(self, call: str) -> object:
        """One pipeline."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"hand:{call}")
            pipe.lrange(f"hand:{call}:turns", 0, -1)
            head, turns = await pipe.execute()
        history = [orjson.loads(turn) for turn in turns]
        return head[b"status"], history[-1]["content"]

    async def beat(self, call: str) -> None:
        """ZADD."""
        await self._redis.zadd(BEATS, {call: self._clock()})

    async def end(self, call: str) -> None:
        """One pipeline."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(f"hand:{call}", mapping={"status": "ended", "updated_at": _now()})
            pipe.zrem(BEATS, call)
            await pipe.execute()

    async def reap(self) -> None:
        """Hand over the calls that have been silent for SILENT_S; to be called every second."""
        while await self._reap([BEATS, ORPHANS], [self._clock() - SILENT_S]):
            pass

    async def orphans(self) -> AsyncIterator[str]:
        """Calls that the reaper has found, with what is needed to continue them read."""
        while True:
            _, taken = await self._redis.blpop([ORPHANS])
            session_id = taken.decode()
            await self._redis.zadd(BEATS, {session_id: self._clock()})
            await self.load(session_id)
            yield session_id

    async def close(self) -> None:
        """Close the pool."""
        await self._redis.aclose()
