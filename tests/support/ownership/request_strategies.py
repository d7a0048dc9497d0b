"""Requests of workers and of an unregistered connection, as they are drawn, written down and answered."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from support.core import FakeClient
from support.ownership.model import Ask

OPERATOR, OWNER = 0, -1
"""Who asks: an unregistered connection, the owner of the call. Above 0: one of the workers' connections."""

KINDS = ["beat", "beat", "beats", "save", "save", "update", "turn", "interrupt", "end", "delete"]
KINDS += ["claim", "claim", "claim", "claim_next", "release"]
METHODS = {
    "beat": "session.heartbeat", "beats": "session.heartbeat", "save": "session.save", "update": "session.update",
    "turn": "session.add_turn", "interrupt": "session.record_interruption", "end": "session.end",
    "delete": "session.delete", "claim": "session.claim", "claim_next": "session.claim_next",
    "release": "session.release", "drain": "server.drain",
}  # fmt: skip
asks = st.builds(
    Ask,
    kind=st.sampled_from(KINDS),
    session_id=st.sampled_from(["a", "b", "c"]),
    worker_id=st.sampled_from(["", "", "w1", "w2", "w3"]),
    status=st.sampled_from(["active", "active", "on_hold", "ended"]),
    epoch=st.sampled_from(["none", "none", "right", "right", "old"]),
    timeout_s=st.sampled_from([None, None, None, 0.75, 5.0]),
    max_s=st.sampled_from([None, None, None, 4.0]),
    steal=st.booleans(),
    stray=st.sampled_from([False] * 5 + [True]),
)
CALLERS = st.sampled_from([OPERATOR, OPERATOR, OWNER, OWNER, 1, 2, 3])
asked = st.tuples(CALLERS, asks)
beaten = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(
    lambda ids: [(OWNER, Ask("beat", session_id)) for session_id in ids]
)


class ExpectedReply(NamedTuple):
    """A request that was read, and what its answer has to be: an error of this kind, or this result at least."""

    ask: Ask
    kind: str
    result: dict[str, Any] | None
    undone: bool
    """It came with what a full disk has undone: it may have been part of that."""
    peer: FakeClient
    request_id: int

    def check(self, reply: dict[str, Any]) -> None:
        """Whether this is the answer."""
        assert kind_of(reply) == self.kind, (self, reply)
        if self.kind:
            return
        result = reply["result"]
        if self.result is None or result is None:
            assert result is self.result, (self, reply)
            return
        shown = result | {"id": result["session"]["id"] if "session" in result else ""}
        if "missing" in shown:
            shown["missing"] = sorted(shown["missing"])  # they are told as they are learned
        assert shown == shown | self.result, (self, reply)


def kind_of(reply: dict[str, Any]) -> str:
    """The kind of a reply's error; empty for a result."""
    return reply["error"]["data"]["kind"] if "error" in reply else ""


def params(ask: Ask, epoch: int | None) -> dict[str, Any]:
    """The request as it is written, with this epoch if any."""
    named: dict[str, Any] = {"session_id": ask.session_id}
    fenced = named if epoch is None else named | {"epoch": epoch}
    session = {"id": ask.session_id, "status": ask.status, "to": f"+{ask.number}"}
    spans = {"heartbeat_timeout_s": ask.timeout_s, "max_duration_s": ask.max_s}
    beside = {name: value for name, value in (fenced | spans).items() if name != "session_id" and value is not None}
    worker = {"worker_id": ask.worker_id}
    given = {name: value for name, value in spans.items() if value is not None}
    return {
        "beat": named,
        "beats": {"session_ids": [ask.session_id, "nowhere"]},
        "save": {"session": session} | beside,
        "update": fenced | {"set": {"status": ask.status, "to": f"+{ask.number}"}},
        "turn": fenced | {"turn": {"role": "user", "content": "x"}},
        "interrupt": fenced,
        "end": fenced | {"reason": "hangup"},
        "delete": fenced,
        "claim": named | worker | {"steal": ask.steal, "history": "none"} | given,
        "claim_next": worker | {"history": "none"},
        "release": {"epoch": 0} | fenced,  # it must be given
        "drain": {"on": ask.steal},
    }[ask.kind]
