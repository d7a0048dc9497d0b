"""Stores and held calls belong to the event loop that they were made in: to say so before anything has changed."""

from __future__ import annotations

import asyncio

__all__ = ["check_loop"]


def check_loop(loop: asyncio.AbstractEventLoop, what: str) -> None:
    """See that this runs in a loop.

    Args:
        loop: which.
        what: belongs to it, for the error.

    Raises:
        RuntimeError: this thread runs another loop, or none.
    """
    if asyncio._get_running_loop() is not loop:
        raise RuntimeError(
            f"{what} belongs to the event loop that it was made in: from another thread, use"
            " loop.call_soon_threadsafe() or asyncio.run_coroutine_threadsafe()"
        )
