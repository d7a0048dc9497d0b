"""Workers around a daemon's core, with time passed in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.core import Peer
from support.floor import Floor


@pytest.fixture
async def floor(tmp_path: Path) -> AsyncIterator[Floor]:
    """A core whose processes are pipes, looked through in the end."""
    floor = Floor(tmp_path)
    yield floor
    floor.check()
    floor.check_replay()
    await floor.close()


@pytest.fixture
async def w2(floor: Floor) -> Peer:
    peer = await floor.worker("w2")
    floor.told()
    return peer
