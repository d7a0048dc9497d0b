from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from callstate_client.calls.recovery import retries as module
from callstate_client.calls.recovery.retries import Retries
from callstate_client.errors import FencedError
from callstate_client.transport.backoff import Delays


def call(session_id: str = "c1", handovers: int = 0, lost: Exception | None = None, ended: bool = False) -> Any:
    return SimpleNamespace(id=session_id, handovers=handovers, lost=lost, ended=ended)


async def test_a_call_is_handed_out_at_once_the_first_time() -> None:
    retries = Retries(watch=True)
    assert not retries.hold_back(call())
    assert not retries.hold_back(call("c2", handovers=1)), "its worker may have been restarted"
    assert retries.due_in_s() is None


async def test_one_that_comes_back_is_held_back_longer_each_time() -> None:
    retries = Retries(watch=True)
    retries.hold_back(call())
    for pause_s in (1, 2, 4):
        again = call()
        assert retries.hold_back(again)
        assert retries.due_in_s() == pytest.approx(pause_s, abs=0.5)
        assert retries.take() is again
    assert not retries


async def test_failures_at_other_workers_count() -> None:
    retries = Retries(watch=True)
    assert retries.hold_back(call(handovers=4))
    assert retries.due_in_s() == pytest.approx(4, abs=0.5)


@pytest.mark.parametrize("most", [4, 5, 6, None])
async def test_a_call_is_left_to_others_after_so_many_attempts(most: int | None) -> None:
    retries = Retries(watch=True)
    failing = call(handovers=4)
    retries.hold_back(failing)
    retries.abandon_if_hopeless(failing, ValueError(), most)
    assert retries.is_abandoned("c1") is (most in (4, 5)), "it was claimed five times"


@pytest.mark.parametrize("gone", [{"lost": FencedError("taken")}, {"ended": True}])
async def test_a_call_that_is_no_longer_held_is_not_abandoned(gone: dict[str, Any]) -> None:
    retries = Retries(watch=True)
    failing = call(handovers=4, **gone)
    retries.abandon_if_hopeless(failing, ValueError(), 1)
    assert not retries.has_abandoned


async def test_the_one_that_is_due_first_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    retries = Retries(watch=True)
    late, soon = call("late", handovers=5), call("soon", handovers=2)
    assert retries.hold_back(late)
    assert retries.hold_back(soon)
    assert [retries.take(), retries.take()] == [soon, late]
    monkeypatch.setattr(module, "HOLD_BACK", Delays(0.0, 0.0))
    retries.hold_back(soon)
    assert retries.due_in_s() == 0


async def test_a_claim_that_lasted_does_not_count_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORT_S", -1.0)
    retries = Retries(watch=True)
    retries.hold_back(call())
    assert not retries.hold_back(call())


async def test_without_watching_others_failures_hold_nothing_back_and_none_is_handed_out_twice() -> None:
    retries = Retries(watch=False)
    assert not retries.hold_back(call(handovers=4))
    assert retries.hold_back(call(handovers=4))


async def test_an_abandoned_call_is_remembered_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    retries = Retries(watch=True)
    assert not retries.has_abandoned
    retries.abandon("c1")
    assert retries.is_abandoned("c1")
    retries.forget("c1")
    retries.forget("never heard of")
    assert not retries.has_abandoned
    monkeypatch.setattr(module, "REMEMBERED", 2)
    for session_id in ("c1", "c2", "c3"):
        retries.abandon(session_id)
    assert [retries.is_abandoned(session_id) for session_id in ("c1", "c2", "c3")] == [False, True, True]


async def test_only_the_latest_attempts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 1)
    retries = Retries(watch=True)
    retries.hold_back(call("c1"))
    retries.hold_back(call("c2"))
    assert not retries.hold_back(call("c1"))
