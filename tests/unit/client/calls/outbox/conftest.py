from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from callstate_client import Clock
from support.flaky import START, FlakyStore, PostingStore


@pytest.fixture
async def awaiting_store() -> AsyncIterator[FlakyStore]:
    """Whose requests are awaited by a task."""
    async with FlakyStore(Clock(START)) as store:
        yield store


@pytest.fixture(params=[FlakyStore, PostingStore], ids=["awaited", "posted"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[FlakyStore]:
    async with request.param(Clock(START)) as store:
        yield store
