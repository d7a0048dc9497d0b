"""What tests of the client share: a peer that answers as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.scripted import ScriptedPeer


@pytest.fixture
async def peer(short_dir: Path) -> AsyncIterator[ScriptedPeer]:
    peer = ScriptedPeer(short_dir / "s")
    await peer.start()
    yield peer
    await peer.stop()
