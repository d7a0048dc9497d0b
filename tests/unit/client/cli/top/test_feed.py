"""What `callstate top` asks a daemon for: here with a store in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from callstate_client import MemoryStore, SessionState
from callstate_client.cli.top.feed import Feed
from callstate_client.store import Record


class Interrupted(MemoryStore):
    """A store during whose first listing something happens, before this number of its calls has come."""

    before = 0
    feed: Feed

    async def sessions(self, *args: Any, **options: Any) -> AsyncIterator[Record]:
        number = 0
        async for record in super().sessions(*args, **options):
            if self.before == number:
                self.before = -1
                self.feed.rescan()
            number += 1
            yield record
        if self.before == number:
            self.before = -1
            self.feed.rescan()


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_a_list_that_begins_anew_while_one_is_read_is_read_whole(before: int) -> None:
    store = Interrupted()
    for name in ("a", "b"):
        await store.save(SessionState(name, status="active"))
    feed = store.feed = Feed(store, 1.0, time.monotonic, lambda: None)
    store.before = before
    await feed.look()
    assert store.before == -1
    await feed.look()
    assert feed.calls.calls.keys() == {"a", "b"}
