from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from callstate_client import Clock
from support.flaky import START, FlakyStore


@pytest.fixture
async def store() -> AsyncIterator[FlakyStore]:
    async with FlakyStore(Clock(START)) as store:
        yield store
