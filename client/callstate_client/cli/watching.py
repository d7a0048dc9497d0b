"""What a command does that goes on showing: again at each event, and every few seconds, until it is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli import output
from callstate_client.errors import CallstateError

SETTLE_S: Final = 0.2
"""How long a redraw waits for more events after one, seconds: they come in swarms."""


async def watch(store: CallStore, interval_s: float, show: Callable[[], Awaitable[None]]) -> int:
    """Call `show` now, after events, and every `interval_s`. Ctrl-C ends it, with exit code 0.

    A daemon that restarts is waited for.

    Raises:
        CallstateError: the first `show` has failed.
    """
    changed = asyncio.Event()
    listening = asyncio.create_task(_listen(store, changed))
    try:
        await show()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await changed.wait()
                    await asyncio.sleep(SETTLE_S)
            changed.clear()
            if listening.done():
                listening = asyncio.create_task(_listen(store, changed))
            try:
                await show()
            except CallstateError as error:
                output.error(str(error))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        return 0
    finally:
        listening.cancel()


async def _listen(store: CallStore, changed: asyncio.Event) -> None:
    """Set `changed` at each event. A stream that breaks is no error: the interval goes on."""
    with suppress(CallstateError):
        async for _ in store.events():
            changed.set()
