"""A request that was sent, and the reply that the model expects."""

from __future__ import annotations

from typing import Any, NamedTuple

from support.core import FakeClient
from support.ownership.model import Request


class ExpectedReply(NamedTuple):
    """The expected reply: an error of this kind, or a result with at least these members."""

    request: Request
    kind: str
    result: dict[str, Any] | None
    undone: bool
    """Whether its group has a change that a full disk rolled back, so that it may have been rolled back too."""
    peer: FakeClient
    request_id: int

    def check(self, reply: dict[str, Any]) -> None:
        """Assert that this is the expected reply."""
        assert kind_of(reply) == self.kind, (self, reply)
        if self.kind:
            return
        result = reply["result"]
        if self.result is None or result is None:
            assert result is self.result, (self, reply)
            return
        shown = result | {"id": result["session"]["id"] if "session" in result else ""}
        if "missing" in shown:
            shown["missing"] = sorted(shown["missing"])  # in the order in which the daemon learned of them
        assert shown == shown | self.result, (self, reply)


def kind_of(reply: dict[str, Any]) -> str:
    """The kind of a reply's error; empty if it is a result."""
    return reply["error"]["data"]["kind"] if "error" in reply else ""
