"""One daemon for the tests of all verbs, and a session in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.calls import new_id, turn
from support.daemon import Daemon
from support.wire import Wire


@pytest.fixture(scope="package")
def daemon() -> Iterator[Daemon]:
    with Daemon() as running:
        yield running


@pytest.fixture
def wire(daemon: Daemon) -> Iterator[Wire]:
    with Wire(daemon.socket) as connection:
        yield connection


@pytest.fixture
def sid(wire: Wire) -> str:
    """A session with two turns."""
    session_id = new_id()
    wire.call(
        "session.save",
        session={
            "id": session_id,
            "provider": "twilio",
            "status": "active",
            "history": [turn("agent", "Hello?"), turn("user", "Hi.")],
            "metrics": {"turn_count": 2},
            "recovery_data": {"node": "greeting", "retries": 2},
            "campaign": "spring",
        },
        labels={"app": "sales"},
    )
    return session_id
