"""The targets that ownership is tested on, and workers of each."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from callstate_client import CallStore
from support.owners import Target
from support.remote import forker
from support.targets import TARGETS, Daemons, TargetResources


@pytest.fixture(scope="package")
def resources() -> Iterator[Callable[[], TargetResources]]:
    """What the daemon's target needs, made when it is first asked for."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def make() -> TargetResources:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cs-")))
            daemons = stack.enter_context(contextlib.closing(Daemons()))
            return TargetResources(daemons, stack.enter_context(forker(directory)))

        yield make


@pytest.fixture(params=TARGETS)
async def target(request: pytest.FixtureRequest, resources: Callable[[], TargetResources]) -> AsyncIterator[Target]:
    async with TARGETS[request.param](resources) as target:
        yield target


@pytest.fixture
async def w1(target: Target) -> CallStore:
    return await target.make_worker("w1")


@pytest.fixture
async def w2(target: Target) -> CallStore:
    return await target.make_worker("w2")


@pytest.fixture
async def operator(target: Target) -> CallStore:
    return await target.make_worker(None)
