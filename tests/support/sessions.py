"""A session with a value in every member, for tests of its forms in the journal and the store."""

from __future__ import annotations

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from support.clock import START_US

TURN = b'{"role":"user","content":"hi","timestamp":"2026-01-01T00:00:00.123456789Z"}'


def full_session() -> Session:
    """A session in which no member has its default."""
    head = read_head(
        b'{"id":"a","provider":"sip","call_id":"CA1","status":"ended","created_at":"2025-12-31T00:00:00Z","x":[1],'
        b'"metrics":{"turn_count":2,"p50":7},"recovery_data":{"node":"menu"}}',
        "$",
        lambda _: "",
    )
    session = Session("a", Document(head, START_US + 5))
    session.doc.replace_history(TURN + b"," + TURN, 2)
    session.version = 17
    session.facts = Facts(
        epoch=3, owner="w1", labels={"app": "sales"}, heartbeat_timeout_s=2.5, max_duration_s=60.0,
        ended_reason="gone", ended_detail='{"cause":16}', ended_us=START_US, reaped=True,
    )  # fmt: skip
    session.ops = {"op-1": b'{"version":17}'}
    session.beat_us = START_US + 9
    return session
