"""Every asynchronous test that does I/O runs on asyncio's loop and on uvloop's. One that needs only one of them
names it: `@pytest.mark.asyncio(loop_factories=["uvloop"])`."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from _pytest.faulthandler import fault_handler_stderr_fd_key  # stderr as it was before it is captured
from hypothesis import HealthCheck, settings

from support.daemon import Daemon
from support.privacy import CLIENT_LOG
from support.redis_server import RedisServer, binaries

# A machine that stands still for some tenths of a second is no fault of an example.
settings.register_profile("callstate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("callstate")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
WITHOUT_IO = (
    "unit/engine/",
    "unit/client/model/",
    "unit/client/protocol/",
    "unit/client/memory/",
    "unit/sidecar/test_",
)
"""Tests of code that opens no socket and starts no process: a second loop would show nothing new."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    path = item.path.relative_to(Path(__file__).parent).as_posix()
    return {"asyncio": LOOPS["asyncio"]} if path.startswith(WITHOUT_IO) else LOOPS


TEARDOWN_S = 60
"""The longest teardown of a test. pytest-timeout stops its timer when a test fails, and uvloop waits for ever as it
closes a loop in which a test left a transport open, while warnings are errors."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """End the process if a teardown hangs."""
    faulthandler.dump_traceback_later(TEARDOWN_S, exit=True, file=item.config.stash[fault_handler_stderr_fd_key])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory for sockets, whose paths may have 107 bytes: `tmp_path` is too long for them."""
    path = Path(tempfile.mkdtemp(prefix="cs-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A running daemon for one test."""
    with Daemon() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for all tests that use a key prefix of their own and neither stop nor reconfigure it."""
    with RedisServer(binaries()["valkey"]) as server:
        yield server


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A server to stop, starve or break."""
    with RedisServer(binaries()["valkey"]) as server:
        yield server


def pytest_configure() -> None:
    """Let the programs that tests start be interrupted: a shell starts its background jobs with SIGINT ignored, and
    what is ignored is inherited. And listen to what the client logs."""
    logging.getLogger("callstate").addHandler(CLIENT_LOG)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
