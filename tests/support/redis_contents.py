"""Comparing what Redis has with what a daemon serves."""

from __future__ import annotations

import json
from collections.abc import Iterable

from redis.asyncio import Redis

from callstate_client import SessionNotFoundError, SidecarStore
from support.redis_server import RedisServer

PREFIX = "voicesession:"


async def check_redis(redis: RedisServer, store: SidecarStore, session_ids: Iterable[str]) -> None:
    """Redis has what the daemon serves, and nothing else."""
    assert (await store.flush(timeout_s=60.0)).unflushed == 0
    async with Redis.from_url(redis.url, protocol=2) as raw:
        active = {name.decode() for name in await raw.smembers(PREFIX + "active")}
        alive: set[str] = set()
        for session_id in session_ids:
            document = await raw.get(PREFIX + session_id)
            try:
                state = await store.load(session_id)
            except SessionNotFoundError:
                assert document is None
                continue
            assert document is not None, session_id
            found = json.loads(document)
            expected = json.loads(state.to_json())
            for members in (found, expected):
                members.pop("updated_at")  # the daemon's includes the last beat
            assert found == expected
            if state.is_active:
                alive.add(session_id)
        assert active == alive
