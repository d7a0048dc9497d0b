"""What importing the client loads, in a fresh process each: what a worker does not use costs it nothing."""

from __future__ import annotations

import subprocess
import sys

import callstate_client

LAZY = {"engine", "memory", "clock", "cli"}


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh process has after this."""
    script = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def rooms_of(modules: set[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("callstate_client.")}


def test_importing_the_client_loads_neither_the_engine_nor_memory_store() -> None:
    modules = loaded_by("from callstate_client import connect")
    assert "callstate_client.client" in modules
    assert rooms_of(modules) & LAZY == set()


def test_the_blocking_front_loads_neither_asyncio_nor_the_asyncio_front() -> None:
    modules = loaded_by("from callstate_client.sync import connect")
    assert "callstate_client.transport.pool" in modules
    assert "asyncio" not in modules
    assert rooms_of(modules) & {*LAZY, "api", "client", "session_api"} == set()


def test_memory_store_is_loaded_when_it_is_first_named() -> None:
    modules = loaded_by("from callstate_client import Clock, MemoryStore; MemoryStore(Clock())")
    assert {"callstate_client.memory", "callstate_client.clock"} <= modules


def test_every_public_name_is_there_and_listed() -> None:
    assert set(callstate_client.__all__) <= set(dir(callstate_client))
    assert [name for name in callstate_client.__all__ if not hasattr(callstate_client, name)] == []


def test_no_other_name_is_there() -> None:
    assert not hasattr(callstate_client, "Engine")
