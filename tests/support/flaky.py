"""A MemoryStore that fails on request, before or after it has executed a verb."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from callstate_client import CallHandle, CallstateError, MemoryStore, NoDaemonError, SessionState

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AWAY = NoDaemonError("there is no daemon")
FOR_EVER = 10**9


class FlakyStore(MemoryStore):
    """Counts requests by verb in `asked`, and fails them on request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: Counter[str] = Counter()
        self.heartbeat_ids: list[str] = []
        self._failures: dict[str, tuple[CallstateError, int, bool]] = {}
        self._silent: set[str] = set()
        self._changed = asyncio.Condition()

    def fail(self, method: str, error: CallstateError, *, times: int, applied: bool = False) -> None:
        """Make the next requests of a verb fail.

        Args:
            method: the verb.
            error: what to raise.
            times: how many requests fail.
            applied: execute them first, as if only the reply had been lost.
        """
        self._failures[method] = (error, times, applied)

    def never_answers(self, method: str) -> None:
        """From now on, answer no request of a verb."""
        self._silent.add(method)

    async def when_asked(self, method: str, times: int) -> None:
        """Return once the verb was requested so often in all."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.asked[method] >= times)

    async def request(self, method: str, params: Any = None, **options: Any) -> bytes:
        self.asked[method] += 1
        if method == "session.heartbeat":
            self.heartbeat_ids.append(params.session_id)
        async with self._changed:
            self._changed.notify_all()
        if method in self._silent:
            await asyncio.get_running_loop().create_future()
        error, times, applied = self._failures.get(method, (None, 0, False))
        if error is None or not times:
            return await super().request(method, params, **options)
        self._failures[method] = (error, times - 1, applied)
        if applied:
            await super().request(method, params, **options)
        raise error


class PostingStore(FlakyStore):
    """Whose requests can be posted, as those of a store with a connection; `is_up`: whether now."""

    is_up = True

    def _gather(self, post: Callable[[], None]) -> bool:
        if self.is_up and not self.closed:
            asyncio.get_running_loop().call_soon(post)
        return self.is_up and not self.closed

    def _post(self, method: str, params: Any, waiter: Any) -> bool:
        if self.is_up:
            asked = asyncio.ensure_future(self.request(method, params))
            asked.add_done_callback(lambda _: self._tell(asked, waiter))
        return self.is_up

    def _tell(self, asked: asyncio.Task[bytes], waiter: Any) -> None:
        if waiter.done() or asked.cancelled():
            return
        error = asked.exception()
        if isinstance(error, Exception):
            waiter.set_exception(error)
        else:
            waiter.set_result(asked.result())


async def same(store: FlakyStore, call: CallHandle) -> None:
    """Check that the store has what the call shows."""
    kept = await store.load(call.id)
    kept.updated_at = call.state.updated_at  # the store's own
    assert kept == call.state


def said(state: SessionState) -> list[str]:
    return [turn.content for turn in state.history]
