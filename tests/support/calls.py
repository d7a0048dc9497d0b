"""Sessions of tests that speak the protocol to a real daemon."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from support.wire import Refused, Wire

MUTATIONS: dict[str, dict[str, Any]] = {
    "session.add_turn": {"turn": {"role": "user", "content": "x"}},
    "session.amend_turn": {"set": {"content": "y"}},
    "session.record_interruption": {},
    "session.update": {"set": {"to": "+1"}},
    "session.end": {"reason": "done"},
}
"""Verbs that change a session, with params that do."""

_serial = itertools.count()


def new_id() -> str:
    return f"call-{next(_serial)}"


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, "timestamp": "2026-05-01T12:00:00Z", "duration_ms": 100, **more}


def load(wire: Wire, session_id: str, **params: Any) -> dict[str, Any]:
    result: dict[str, Any] = wire.call("session.load", session_id=session_id, **params)
    return result


def session(wire: Wire, session_id: str) -> dict[str, Any]:
    result: dict[str, Any] = load(wire, session_id)["session"]
    return result


def contents(wire: Wire, session_id: str) -> list[str]:
    return [said["content"] for said in session(wire, session_id)["history"]]


def refused(wire: Wire, kind: str, method: str, **params: Any) -> dict[str, Any]:
    """Assert that a request is refused with this kind of error, and return the error's data."""
    with pytest.raises(Refused) as caught:
        wire.call(method, **params)
    assert caught.value.kind == kind, caught.value
    return caught.value.data
