"""Mixed load, a daemon that is killed and a Redis that fails, again and again: in the end Redis has what is right.

What a client was acknowledged is checked by the oracle of kill -9; what Redis has, byte for byte as a plain reader
of JSON sees it, is compared with what the daemon serves. Turns reach Redis as patches, so this also shows that no
patch is ever applied to another document than it was made for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Iterator

import pytest

from callstate_client import connect
from support.daemon import Daemon
from support.oracle import Oracle
from support.redis_contents import check_redis
from support.redis_server import RedisServer, binaries

ROUNDS = 6
SEED = int(os.environ.get("CALLSTATE_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120 + ROUNDS * 15),
    pytest.mark.asyncio(loop_factories=["uvloop"]),
]

log = logging.getLogger(__name__)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer(binaries()["valkey"]) as server:
        yield server


class Trouble:
    """Faults of Redis, one a round."""

    def __init__(self, redis: RedisServer, when: random.Random) -> None:
        self._redis = redis
        self._when = when

    async def strike(self) -> None:
        """Do one of them, after a while."""
        await asyncio.sleep(self._when.uniform(0.0, 0.15))
        await asyncio.to_thread(self._when.choice([self._nothing, self._empty, self._replace, self._pause]))

    def _nothing(self) -> None:
        """None this time."""

    def _empty(self) -> None:
        self._redis.command("FLUSHALL")

    def _replace(self) -> None:
        """It is killed, and comes back without data."""
        self._redis.kill()
        self._redis.start()

    def _pause(self) -> None:
        self._redis.pause()

    def end(self) -> None:
        """Let it go on."""
        self._redis.resume()


async def test_redis_has_what_was_acknowledged_whatever_fails(redis: RedisServer) -> None:
    log.warning("seed %d: CALLSTATE_SEED=%d repeats it", SEED, SEED)
    when = random.Random(SEED)
    options = ("flush_interval_s=0.01", "timeout_s=0.3", "beat_interval_s=0.2")
    daemon = Daemon(*(word for option in options for word in ("--set", f"store.{option}")), store=redis.url)
    await daemon.in_thread("start")
    oracle, trouble = Oracle(daemon.socket, SEED), Trouble(redis, when)
    try:
        for _ in range(ROUNDS):
            striking = asyncio.ensure_future(trouble.strike())
            await oracle.drive(when.randrange(50, 1500), lambda: daemon.in_thread("kill"))
            await striking
            trouble.end()
            await daemon.in_thread("start")
            async with connect(daemon.socket) as store:
                await store.flush(timeout_s=60.0)  # deletions that Redis has are answered by asking it
                await oracle.check()
                await check_redis(redis, store, [*oracle.sessions])
        assert oracle.acknowledged > ROUNDS * 50
    finally:
        daemon.close(expect="the store|Redis|superseded")
