"""Heartbeats gathered into messages, and what becomes of each; a list stands for the connection."""

from __future__ import annotations

import json
from typing import Any

import pytest

from callstate_client.errors import (
    CallstateError,
    SessionEndedError,
    SessionNotFoundError,
    StoreUnavailableError,
    WireError,
)
from callstate_client.protocol import HeartbeatParams
from callstate_client.transport import heartbeat_batch as module
from callstate_client.transport.heartbeat_batch import HeartbeatBatcher, HeartbeatOutcome, batches, read_outcome
from callstate_client.transport.pending import Waiter


class Ack:
    """Waits for one heartbeat."""

    def __init__(self) -> None:
        self.outcome: object = "none yet"

    def done(self) -> bool:
        return self.outcome != "none yet"

    def set_result(self, result: None) -> None:
        assert not self.done()
        self.outcome = result

    def set_exception(self, error: Exception) -> None:
        assert not self.done()
        self.outcome = error


class Bench:
    """A batcher and what it has sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[HeartbeatParams, Waiter]] = []
        self.batcher = HeartbeatBatcher(lambda params, waiter: self.sent.append((params, waiter)))

    def add(self, *session_ids: str) -> list[Ack]:
        acks = [Ack() for _ in session_ids]
        for session_id, ack in zip(session_ids, acks, strict=True):
            self.batcher.add(session_id, ack)
        return acks

    def take(self) -> tuple[str | list[str] | None, Waiter]:
        params, waiter = self.sent.pop(0)
        return params.session_id or params.session_ids, waiter


@pytest.fixture
def bench() -> Bench:
    return Bench()


def answer(result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}, separators=(",", ":")).encode()


def refusal(error: WireError) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "error": error.to_wire()}).encode()


def test_one_is_sent_by_itself_and_several_together(bench: Bench) -> None:
    bench.batcher.flush()
    (one,) = bench.add("c1")
    bench.batcher.flush()
    others = bench.add("c1", "c2", "c1")
    bench.batcher.flush()
    sent, waiter = bench.take()
    assert sent == "c1"
    waiter.set_result(answer({}))
    assert one.outcome is None
    sent, waiter = bench.take()
    assert sent == ["c1", "c2"]
    waiter.set_result(answer({"missing": [], "ended": [], "fenced": []}))
    assert [ack.outcome for ack in others] == [None] * 3
    assert bench.sent == []


def test_very_many_are_several_messages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    bench.add("c1", "c2", "c3")
    bench.batcher.flush()
    assert [bench.take()[0] for _ in range(2)] == [["c1", "c2"], "c3"]
    assert [*batches("abcde")] == [["a", "b"], ["c", "d"], ["e"]]


def test_sessions_without_a_heartbeat_are_reported_or_sent_again(bench: Bench) -> None:
    missing, ended, fine = bench.add("missing", "ended", "fine")
    bench.batcher.flush()
    bench.take()[1].set_result(answer({"missing": ["missing"], "ended": ["ended"], "fenced": [], "new": 1}))
    assert isinstance(missing.outcome, SessionNotFoundError)
    assert fine.outcome is None
    assert not ended.done()
    sent, waiter = bench.take()
    assert sent == "ended"
    waiter.set_result(refusal(SessionEndedError("ended", reason="operator")))
    assert isinstance(ended.outcome, SessionEndedError)
    assert ended.outcome.reason == "operator"


def test_an_error_is_everybodys(bench: Bench) -> None:
    acks = bench.add("c1", "c2")
    bench.batcher.flush()
    acks[0].set_exception(TimeoutError())  # waits no more
    bench.take()[1].set_result(refusal(StoreUnavailableError("away")))
    assert [type(ack.outcome) for ack in acks] == [TimeoutError, StoreUnavailableError]


@pytest.mark.parametrize("sent", [True, False])
def test_closing_fails_them(bench: Bench, sent: bool) -> None:
    (ack,) = bench.add("c1")
    error = CallstateError("closed")
    if sent:
        bench.batcher.flush()
        bench.take()[1].set_exception(error)
    else:
        bench.batcher.fail(error)
        bench.batcher.flush()
    assert ack.outcome is error
    assert bench.sent == []


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({}, HeartbeatOutcome([], [], {})),
        ({"missing": [], "ended": [], "fenced": []}, HeartbeatOutcome([], [], {})),
        ({"missing": ["a"], "ended": ["b"], "fenced": ["c"]}, HeartbeatOutcome(["a"], ["b", "c"], {})),
        ({"unreadable": ["d"], "timeouts": {"e": 5}}, HeartbeatOutcome([], ["d"], {"e": 5})),
    ],
)
def test_outcomes(result: Any, outcome: HeartbeatOutcome) -> None:
    assert read_outcome(answer(result)) == outcome
