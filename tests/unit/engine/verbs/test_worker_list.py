"""`worker.list`: who is there, and with how many connections and calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from callstate_client.engine.interfaces import INTERNAL, InSteps
from callstate_client.engine.verbs import workers
from callstate_client.protocol.params import WorkerListParams
from support.core import FakeClient
from support.core_harness import CoreHarness


async def listed(harness: CoreHarness, **params: Any) -> list[dict[str, Any]]:
    reply = await harness.request(harness.connect(harness.process()), "worker.list", **params)
    return reply["workers"]


async def test_a_worker_with_its_process_connections_and_sessions(harness: CoreHarness, w1: FakeClient) -> None:
    await harness.worker("w1", harness.process_of(w1))
    for name in "abc":
        await harness.save(w1, name)
    await harness.request(w1, "session.end", session_id="c")
    (worker,) = await listed(harness)
    assert worker.pop("pid") > 0
    assert worker.pop("since").endswith("Z")
    assert worker == {"worker_id": "w1", "state": "connected", "connections": 2, "sessions": 2, "watched": True}


async def test_one_without_a_connection_is_away_until_its_grace_is_over(
    harness: CoreHarness, w1: FakeClient
) -> None:
    harness.drop_connection(w1)
    (worker,) = await listed(harness)
    assert (worker["state"], worker["connections"]) == ("away", 0)
    await harness.advance(60)
    assert await listed(harness) == []


async def test_pages_are_in_the_order_of_ids(harness: CoreHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("w3", "w1", "w2"):
        peer = await harness.worker(name)
        await harness.save(peer, f"of-{name}")
    asking = harness.connect(harness.process())
    first = await harness.request(asking, "worker.list", limit=2)
    assert [each["worker_id"] for each in first["workers"]] == ["w1", "w2"]
    rest = await harness.request(asking, "worker.list", limit=2, cursor=first["next_cursor"])
    assert [each["worker_id"] for each in rest["workers"]] == ["w3"]
    assert "next_cursor" not in rest
    monkeypatch.setattr(workers, "LOOKS_A_PAGE", 1)
    first = await harness.request(asking, "worker.list")
    assert [each["worker_id"] for each in first["workers"]] == ["w1"], "counting sessions has a bound"
    assert first["next_cursor"] == "w1"


async def test_many_sessions_are_counted_in_steps(harness: CoreHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOOKS_A_STEP", 2)
    for name in ("w1", "w2"):
        peer = await harness.worker(name)
        for number in range(6):
            await harness.save(peer, f"{name}-{number}")
    listing = workers.list_workers(harness.core.ctx, INTERNAL, WorkerListParams())
    assert isinstance(listing, InSteps), "the first of them"
    assert sum(1 for _ in listing.work) == 5


async def test_a_worker_that_leaves_meanwhile_is_not_shown(
    harness: CoreHarness, w1: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LOOKS_A_STEP", 1)
    await harness.save(w1, "a")
    await harness.worker("w2")
    listing = workers.list_workers(harness.core.ctx, INTERNAL, WorkerListParams())
    assert isinstance(listing, InSteps)
    harness.drop_connection(w1)
    await harness.advance(60)
    result = listing.finish()
    assert isinstance(result, bytes)
    assert [each["worker_id"] for each in json.loads(result)["workers"]] == ["w2"]
