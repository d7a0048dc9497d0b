"""Workers around a daemon's core, with time passed in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.core import FakeClient
from support.core_harness import CoreHarness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[CoreHarness]:
    """A core whose processes are pipes, looked through in the end."""
    harness = CoreHarness(tmp_path)
    yield harness
    harness.check_consistency()
    harness.check_replay()
    await harness.close()


@pytest.fixture
async def w2(harness: CoreHarness) -> FakeClient:
    peer = await harness.worker("w2")
    harness.new_events()
    return peer
