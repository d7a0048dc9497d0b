"""A core for requests without a worker, and the first worker of a harness."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.core import Core, FakeClient, durable_state
from support.core_harness import CoreHarness


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    """A core whose log alone must restore all that the test did."""
    core = Core()
    yield core
    assert durable_state(core.replayed()) == durable_state(core.table)


@pytest.fixture
async def w1(harness: CoreHarness) -> FakeClient:
    peer = await harness.worker("w1")
    harness.new_events()
    return peer
