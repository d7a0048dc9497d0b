"""`worker.register`: which connections are one worker, and whose id is taken."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.phases import Phase
from support.core import FakeClient
from support.core_harness import RECONNECT_S, TIMEOUT_S, CoreHarness


async def test_a_repeated_registration_changes_nothing(harness: CoreHarness) -> None:
    peer = harness.connect(harness.process())
    for _ in range(2):
        assert await harness.request(peer, "worker.register", worker_id="w1") == {"worker_id": "w1", "drain": False}
    assert harness.new_events() == [{"type": "worker.joined", "worker_id": "w1"}]
    assert (await harness.refused(peer, "worker.register", worker_id="w2"))["kind"] == "forbidden"
    await harness.save(peer, "a")
    assert harness.ownership("a") == ("w1", 0, "")


async def test_connections_of_one_process_are_one_worker(harness: CoreHarness, w1: FakeClient) -> None:
    other = await harness.worker("w1", harness.process_of(w1))
    await harness.save(w1, "a")
    await harness.advance(TIMEOUT_S)
    await harness.heartbeat(other, "a")
    assert harness.phase("a") is Phase.LIVE
    harness.drop_connection(w1)
    await harness.advance(2 * RECONNECT_S)
    assert harness.ownership("a") == ("w1", 0, "")
    assert harness.new_events("worker.joined", "worker.left") == []


async def test_a_second_process_under_one_id_is_a_conflict(harness: CoreHarness, w1: FakeClient) -> None:
    other = harness.connect(harness.process())
    data = await harness.refused(other, "worker.register", worker_id="w1")
    assert (data["kind"], data["owner"]) == ("conflict", "w1")
    harness.drop_connection(w1)
    data = await harness.refused(other, "worker.register", worker_id="w1")
    assert data["kind"] == "conflict", "the first may reconnect"
    await harness.save(other, "a")
    assert harness.ownership("a") == ("", 0, ""), "its connection is not registered"


@pytest.mark.parametrize("name", ["instance", "process"])
@pytest.mark.parametrize("bad", ["", "x" * 65, 5])
async def test_an_invalid_instance_or_process_is_not_registered(harness: CoreHarness, name: str, bad: Any) -> None:
    peer = harness.connect(harness.process())
    data = await harness.refused(peer, "worker.register", worker_id="w1", **{name: bad})
    assert (data["kind"], data["path"]) == ("invalid_params", f"$.params.{name}")
    assert not harness.core.engine.registry.workers.is_connected("w1")
