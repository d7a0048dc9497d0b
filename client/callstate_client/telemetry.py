"""What a store reports to an observer of its worker, such as OpenTelemetry (otel.py).

Without one it reports nothing, and pays nothing: requests are observed by replacing the `request` of the store, not
by a branch in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from callstate_client.errors import CallstateError

__all__ = ["Telemetry"]

RequestT = TypeVar("RequestT", bound=Callable[..., Any])


class Telemetry(Protocol):
    """An observer. Its methods must not raise, and may be called from any thread."""

    def observed(self, request: RequestT) -> RequestT:
        """Like the `request` method of a store, of either front, but observed."""
        ...

    def call_held(self) -> None:
        """A call is held from now on."""
        ...

    def call_left(self, lost: CallstateError | None) -> None:
        """A call is no longer held.

        Args:
            lost: why it was lost; None: it was ended or released.
        """
        ...

    def call_recovered(self) -> None:
        """A call of a dead worker was claimed by `recover()`; `call_held` comes too."""
        ...
