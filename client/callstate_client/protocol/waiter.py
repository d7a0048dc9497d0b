"""Who gets the reply to a request."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Waiter"]


class Waiter(Protocol):
    """Gets the reply to a request: a future, or an object that is called at once, not an iteration later."""

    def done(self) -> bool:
        """Whether the reply is no longer wanted."""
        ...

    def set_result(self, line: bytes, /) -> None:
        """This is the reply."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """There will be no reply."""
        ...
