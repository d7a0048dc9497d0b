"""Response times given with turns: counted once, exactly, whatever is behind the store."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from callstate_client import CallStore, DocumentError, SessionMetrics
from callstate_client import protocol as p
from support.owners import Target, a_call


def times(metrics: SessionMetrics) -> tuple[int, int, Any, Any]:
    extra = metrics.extra
    counted = extra.get("response_count"), extra.get("response_total_ms")
    return metrics.first_response_ms, metrics.average_response_ms, *counted


async def test_response_times_of_turns_are_averaged(target: Target, w1: CallStore, w2: CallStore) -> None:
    async with w1.hold(a_call()) as call:
        call.add_turn("user", "hello", 900)
        call.add_turn("agent", "good morning", 700, response_ms=401)
        call.add_turn("agent", "how can I help", 700)
        await call.add_turn("agent", "?", response_ms=200, extra={"turn_id": "t4"})
        assert times(call.state.metrics) == times((await w2.load("c1")).metrics) == (401, 300, 2, 601)
        await call.add_turn("agent", "!", response_ms=400.4)  # type: ignore[arg-type]
        await w1.add_turn("c1", "agent", "…", response_ms=0)
        kept = await w2.load("c1")
        assert times(kept.metrics) == (401, 250, 4, 1001)
        assert [turn.response_ms for turn in kept.history] == [None, 401, None, 200, 400, 0]
        assert kept.history[3].extra == {"turn_id": "t4", "response_ms": 200}
        with pytest.raises(DocumentError):
            call.add_turn("agent", "no", response_ms=-1)
    async with w2.hold(a_call("c2")) as other:
        assert times(other.state.metrics) == (0, 0, None, None)


async def test_an_amendment_counts_no_response(target: Target, w1: CallStore) -> None:
    async with w1.hold(a_call()) as call:
        turn = call.add_turn("agent", "good morning", response_ms=400)
        turn.amend(extra={"response_ms": 100})
        turn.amend(content="good")
        await turn
        await call.amend_last_turn(extra={"response_ms": None})
        kept = await w1.load("c1")
        assert times(kept.metrics) == times(call.state.metrics) == (400, 400, 1, 400)
        assert (kept.history[0].content, kept.history[0].response_ms) == ("good", None)


async def test_a_repeated_turn_counts_one_response(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    turns = msgspec.Raw(b'[{"role":"agent","response_ms":300},{"role":"agent","response_ms":500}]')
    for _ in range(2):
        params = p.AddTurnParams(session_id="c1", turns=turns, op="one")
        p.decode_version(await w1.request("session.add_turn", params, op_of="c1"))
    assert times((await w1.load("c1")).metrics) == (300, 400, 2, 800)


async def test_an_invalid_response_time_is_kept_and_not_counted(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    found = (b"12.5", b'"soon"', b"-4", b"true", b"null", b'{"p50":3}')
    turns = msgspec.Raw(b"[%b]" % b",".join(b'{"role":"agent","response_ms":%b}' % value for value in found))
    p.decode_version(await w1.request("session.add_turn", p.AddTurnParams(session_id="c1", turns=turns)))
    kept = await w1.load("c1")
    assert times(kept.metrics) == (0, 0, None, None)
    assert [turn.extra["response_ms"] for turn in kept.history] == [12.5, "soon", -4, True, None, {"p50": 3}]


async def test_an_average_that_was_set_counts_as_one_response(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    await w1.update("c1", metrics={"first_response_ms": 90, "average_response_ms": 100})
    await w1.add_turn("c1", "agent", "hello", response_ms=201)
    assert times((await w1.load("c1")).metrics) == (90, 150, 2, 301)
    await w1.update("c1", metrics={"average_response_ms": 500})  # the sum is that of another average now
    await w1.add_turn("c1", "agent", "hello", response_ms=200)
    assert times((await w1.load("c1")).metrics) == (90, 400, 3, 1200)


async def test_a_refused_turn_is_not_counted(target: Target, w1: CallStore, w2: CallStore) -> None:
    async with w1.hold(a_call()) as call:
        await call.add_turn("agent", "hello", response_ms=300)
        await w2.claim("c1", steal=True)
        refused = call.add_turn("agent", "again", response_ms=500)
        assert times(call.state.metrics) == (300, 400, 2, 800)
        assert isinstance(await refused_by(refused), Exception)
        assert times(call.state.metrics) == (300, 300, 1, 300)
        await call.release()


async def refused_by(mutation: Any) -> Exception | None:
    try:
        await mutation
    except Exception as error:  # noqa: BLE001 - returned
        return error
    return None
