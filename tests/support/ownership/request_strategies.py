"""Strategies for requests of workers and of an unregistered connection, and the params to send."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from support.ownership.model import Request

OPERATOR, OWNER = 0, -1
"""The sender of a request: an unregistered connection, or the call's owner. Above 0: some worker's connection."""

KINDS = ["beat", "beat", "beats", "save", "save", "update", "turn", "interrupt", "end", "delete"]
KINDS += ["claim", "claim", "claim", "claim_next", "release"]
METHODS = {
    "beat": "session.heartbeat", "beats": "session.heartbeat", "save": "session.save", "update": "session.update",
    "turn": "session.add_turn", "interrupt": "session.record_interruption", "end": "session.end",
    "delete": "session.delete", "claim": "session.claim", "claim_next": "session.claim_next",
    "release": "session.release", "drain": "server.drain",
}  # fmt: skip
requests = st.builds(
    Request,
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
sent = st.tuples(CALLERS, requests)
heartbeats = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(
    lambda ids: [(OWNER, Request("beat", session_id)) for session_id in ids]
)


def params(request: Request, epoch: int | None) -> dict[str, Any]:
    """The params of a request, with this epoch if given."""
    named: dict[str, Any] = {"session_id": request.session_id}
    fenced = named if epoch is None else named | {"epoch": epoch}
    session = {"id": request.session_id, "status": request.status, "to": f"+{request.number}"}
    spans = {"heartbeat_timeout_s": request.timeout_s, "max_duration_s": request.max_s}
    beside = {name: value for name, value in (fenced | spans).items() if name != "session_id" and value is not None}
    worker = {"worker_id": request.worker_id}
    given = {name: value for name, value in spans.items() if value is not None}
    return {
        "beat": named,
        "beats": {"session_ids": [request.session_id, "nowhere"]},
        "save": {"session": session} | beside,
        "update": fenced | {"set": {"status": request.status, "to": f"+{request.number}"}},
        "turn": fenced | {"turn": {"role": "user", "content": "x"}},
        "interrupt": fenced,
        "end": fenced | {"reason": "hangup"},
        "delete": fenced,
        "claim": named | worker | {"steal": request.steal, "history": "none"} | given,
        "claim_next": worker | {"history": "none"},
        "release": {"epoch": 0} | fenced,  # a required param
        "drain": {"on": request.steal},
    }[request.kind]
