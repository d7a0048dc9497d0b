"""Stores and held calls belong to the event loop that they were created in; calls from elsewhere fail before any
change."""

from __future__ import annotations

import asyncio

__all__ = ["check_loop"]


def check_loop(loop: asyncio.AbstractEventLoop, what: str) -> None:
    """Check that the current thread runs this loop.

    Args:
        loop: the event loop.
        what: what belongs to it, for the error.

    Raises:
        RuntimeError: this thread runs another loop, or none.
    """
    if asyncio._get_running_loop() is not loop:
        raise RuntimeError(
            f"{what} belongs to the event loop that it was made in: from another thread, use"
            " loop.call_soon_threadsafe() or asyncio.run_coroutine_threadsafe()"
        )
