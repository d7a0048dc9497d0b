"""Every async test runs on asyncio's loop and on uvloop's; a test that should not names the one it takes:
`@pytest.mark.asyncio(loop_factories=["uvloop"])`."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from support.redis_server import RedisServer, binaries


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory for sockets, whose paths may have 107 bytes: `tmp_path` is too long for them."""
    path = Path(tempfile.mkdtemp(prefix="cs-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests that keep to a prefix of their own and leave it running as it was."""
    with RedisServer(binaries()["valkey"]) as server:
        yield server


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A server to stop, starve or break."""
    with RedisServer(binaries()["valkey"]) as server:
        yield server


def pytest_configure() -> None:
    """Let the programs that tests start be interrupted: a shell starts its background jobs with SIGINT ignored, and
    what is ignored is inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
