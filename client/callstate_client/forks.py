"""What a forked child does with its parent's connections: it lets go of them, and tells nobody.

The kernel tells the daemon that a worker is gone when the last copy of its connections is closed, so a child that
kept one open would keep a dead parent alive. The copies are replaced by /dev/null, under the same numbers: whatever
of the parent's objects the child still has may close them without hitting another file.

A fork made in C runs no hook of Python's; there the copies stay until the child execs or ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet

__all__ = ["Forked", "let_go", "watch"]


class Forked(Protocol):
    """What has connections, or state, that is not its child's."""

    def forked(self) -> None:
        """Called in the child, before anything else runs there. Must not raise."""
        ...


_watched: WeakSet[Any] = WeakSet()


def watch(thing: Forked) -> None:
    """Tell this one, in a child, that it is in a child; as long as somebody has it."""
    _watched.add(thing)


def let_go(fileno: Callable[[], int]) -> None:
    """In a child: put /dev/null in the place of a descriptor, unless it is closed already."""
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fd = fileno()
        if fd >= 0:
            os.dup2(null, fd, inheritable=False)
    except (OSError, ValueError):
        pass
    finally:
        os.close(null)


def _in_child() -> None:
    for thing in [*_watched]:
        thing.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
