"""What tests of single verbs share: one request of each kind for session `a`, and how sessions become claimable."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.errors import WireError
from support.core import Core, FakeClient, durable_state
from support.core_harness import FULL, RECONNECT_S, TIMEOUT_S, CoreHarness

Requests = dict[str, tuple[str, dict[str, Any]]]

CHANGES: Requests = {
    "save": ("session.save", {"session": {"id": "a", "status": "on_hold"}}),
    "turn": ("session.add_turn", {"session_id": "a", "turn": {"content": "x"}}),
    "amend": ("session.amend_turn", {"session_id": "a", "set": {"content": "y"}}),
    "interrupt": ("session.record_interruption", {"session_id": "a"}),
    "update": ("session.update", {"session_id": "a", "set": {"to": "+1"}}),
}
SIGNS_OF_LIFE: Requests = {
    "heartbeat": ("session.heartbeat", {"session_id": "a"}),
    "heartbeats": ("session.heartbeat", {"session_ids": ["a"]}),
} | CHANGES
LAST_REQUESTS: Requests = {
    "end": ("session.end", {"session_id": "a"}),
    "delete": ("session.delete", {"session_id": "a"}),
    "release": ("session.release", {"session_id": "a", "epoch": 0}),
}


def event(type_: str, session_id: str, **more: Any) -> dict[str, Any]:
    """An event of a session, as `CoreHarness.new_events` gives it; epoch 0 unless `more` names another."""
    return {"type": type_, "session_id": session_id, "epoch": 0} | more


async def refused(error: type[WireError], core: Core, method: str, **params: Any) -> WireError:
    """The error of a request that must fail, and must change nothing."""
    before = durable_state(core.table)
    with pytest.raises(error) as caught:
        await core.call(method, **params)
    assert durable_state(core.table) == before
    assert caught.value.kind
    return caught.value


async def unjournaled(harness: CoreHarness, peer: FakeClient, method: str, **params: Any) -> None:
    """Send a request that must fail, and change nothing, because the disk is full; then make room again."""
    harness.disk.error = FULL
    assert (await harness.refused(peer, method, **params))["kind"] == "not_durable"
    harness.disk.error = None


async def make_claimable(harness: CoreHarness, w1: FakeClient, how: str) -> None:
    """Session `a`, owned by w1 until it became claimable for the reason `how`, if it had an owner.

    With `live` and `stolen` it is live, and only a claim with `steal` takes it.
    """
    await harness.save(harness.operator if how == "unowned" else w1, "a", labels={"app": "x"})
    if how == "released":
        await harness.release(w1, "a")
    elif how == "disconnected":
        harness.drop_connection(w1)
        await harness.advance(RECONNECT_S)
    elif how == "heartbeat_timeout":
        await harness.advance(TIMEOUT_S)
    elif how == "worker_exited":
        await harness.kill(w1)
    elif how == "reaped":
        await harness.reap_silent()
    harness.new_events()
