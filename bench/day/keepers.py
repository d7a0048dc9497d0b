"""What a worker calls to keep its calls: callstate, or one of the ways it is compared with.

Each keeps the same facts of a call and does the same requests at the same times. They differ in what else they do:
RedisStore notices no death and loses concurrent turns; by hand, a script looks for silent calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, Protocol

from bench.documents import DURATION_MS
from callstate_client import SessionState, connect
from callstate_client.calls.handle import CallHandle
from callstate_client.client import SidecarStore

LABELS: Final = {"app": "day"}
BEAT_EVERY_S: Final = 10.0
"""A third of the default heartbeat timeout, as callstate's client does it."""


class Keeper(Protocol):
    """Keeps the calls of one worker; `call` is what `begin` or `orphans` gave."""

    beats: bool
    """Whether the worker has to send each call's heartbeats: `beat` every BEAT_EVERY_S."""

    async def begin(self, state: SessionState) -> Any:
        """Create a call."""

    async def turn(self, call: Any, role: str, content: str) -> None:
        """Add a turn; returns when it is acknowledged."""

    async def update(self, call: Any, recovery_data: Mapping[str, Any]) -> None:
        """Change what is needed to resume."""

    async def load(self, call: Any) -> object:
        """Read status and last turn."""

    async def beat(self, call: Any) -> None:
        """Say that the call lives."""

    async def end(self, call: Any) -> None:
        """End the call."""

    def orphans(self) -> AsyncIterator[Any]:
        """The calls of dead workers, taken over one by one, for as long as this is iterated."""

    async def close(self) -> None:
        """Disconnect."""


# -- callstate ------------------------------------------------------------------------------------------------


class Callstate:
    """`hold()`, whose heartbeats are its own concern."""

    beats = False

    def __init__(self, store: SidecarStore) -> None:
        self._store = store

    @classmethod
    async def connect(cls, path: Path, worker_id: str) -> Callstate:
        """Connect and register."""
        return cls(await connect(str(path), worker_id, timeout_s=30.0))

    async def begin(self, state: SessionState) -> CallHandle:
        """Hold it."""
        return await self._store.hold(state, labels=LABELS).open()

    async def turn(self, call: CallHandle, role: str, content: str) -> None:
        """One request."""
        await call.add_turn(role, content, duration_ms=DURATION_MS)

    async def update(self, call: CallHandle, recovery_data: Mapping[str, Any]) -> None:
        """One request."""
        await call.update(recovery_data=dict(recovery_data))

    async def load(self, call: CallHandle) -> object:
        """One request, with the whole history."""
        state = await self._store.load(call.id)
        return state.status, state.history[-1].content

    async def beat(self, call: CallHandle) -> None:
        """Not called: `hold()` does it."""

    async def end(self, call: CallHandle) -> None:
        """End it and leave its block."""
        await call.end("completed")
        await call.close()

    async def orphans(self) -> AsyncIterator[CallHandle]:
        """`recover()`."""
        async with aclosing(self._store.recover(labels=LABELS, watch=True)) as calls:
            async for call in calls:
                yield call

    async def close(self) -> None:
        """Release what is held and disconnect."""
        await self._store.close()


class Nothing:
    """Keeps nothing: what pacing the requests costs by itself."""

    beats = True

    async def begin(self, state: SessionState) -> str:
        """Nothing."""
        return state.id

    async def turn(self, call: str, role: str, content: str) -> None:
        """Nothing."""

    async def update(self, call: str, recovery_data: Mapping[str, Any]) -> None:
        """Nothing."""

    async def load(self, call: str) -> object:
        """Nothing."""

    async def beat(self, call: str) -> None:
        """Nothing."""

    async def end(self, call: str) -> None:
        """Nothing."""

    async def orphans(self) -> AsyncIterator[str]:
        """None."""
        await asyncio.Event().wait()
        yield ""

    async def close(self) -> None:
        """Nothing."""
