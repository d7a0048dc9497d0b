"""What can't be sent raises at the call, with nothing changed; the rest is made into what can."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from callstate_client import Clock, DocumentError, InvalidParamsError, SessionState
from callstate_client.model.wellformed import cleaned, well_formed, whole_ms
from support.flaky import FlakyStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Float64:
    """What numpy's scalars are, as far as this goes."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        return f"Float64({self.value})"


class Int64:
    def __index__(self) -> int:
        return 7


class Who(str, enum.Enum):  # noqa: UP042 - as users write them
    AGENT = "agent"


@pytest.fixture
async def store() -> AsyncIterator[FlakyStore]:
    async with FlakyStore(Clock(START)) as store:
        yield store


@pytest.mark.parametrize(
    ("given", "whole"),
    [(1234.56, 1235), (1200.0, 1200), (0, 0), (Float64(3.4), 3), (Int64(), 7), (Decimal("9.6"), 10),
     (Fraction(7, 2), 4), (2**60, 2**60)],
)  # fmt: skip
async def test_any_real_duration_is_rounded(store: FlakyStore, given: Any, whole: int) -> None:
    assert whole_ms(given) == whole
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn("user", "x", duration_ms=given)
        await turn
        await store.add_turn("c1", "user", "y", duration_ms=given)
        assert turn.turn.duration_ms == whole
        assert type(turn.turn.duration_ms) is int
        await turn.amend(content="z", duration_ms=given)
    assert [each.duration_ms for each in (await store.load("c1")).history] == [whole, whole]


BAD: list[dict[str, Any]] = [
    {"content": None}, {"content": b"x"}, {"content": 7}, {"role": None}, {"role": 7},
    {"duration_ms": None}, {"duration_ms": "7"}, {"duration_ms": True}, {"duration_ms": -1}, {"duration_ms": -0.6},
    {"duration_ms": float("nan")}, {"duration_ms": float("inf")}, {"duration_ms": Float64(float("nan"))},
    {"duration_ms": 2**63}, {"duration_ms": 1j},
    {"extra": {"content": "x"}}, {"extra": {"Role": "x"}}, {"extra": {"duration_M\u017f": 1}}, {"extra": {7: 1}},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=repr)
async def test_an_invalid_value_raises_before_anything_changes(store: FlakyStore, bad: dict[str, Any]) -> None:
    given: dict[str, Any] = {"role": "user", "content": "x", "duration_ms": 5} | bad
    async with store.hold(SessionState("c1")) as call:
        call.add_turn("user", "one")
        before = call.state.copy()
        with pytest.raises(DocumentError):
            call.add_turn(**given)
        with pytest.raises(DocumentError):
            await store.add_turn("c1", **given)
        if bad.keys() & {"extra"} or (bad.get("content") or bad.get("duration_ms")) is not None:
            with pytest.raises(DocumentError):
                call.amend_last_turn(**bad)
        assert call.state == before
        assert call.unacknowledged == 1
        await call.update(status="active")
        await call.add_turn("user", "two")
    assert (await store.get("c1")).turn_count == 2


@pytest.mark.parametrize("reason", ["", "x" * 65, None])
async def test_a_reason_is_a_word(store: FlakyStore, reason: Any) -> None:
    async with store.hold(SessionState("c1")) as call:
        with pytest.raises((InvalidParamsError, DocumentError)):
            call.end(reason)
        assert not call.ended


class TooLong(Exception):  # noqa: N818
    reason = "\u00e4" * 64


async def test_an_exceptions_reason_is_cut_to_a_word(store: FlakyStore) -> None:
    with pytest.raises(TooLong):
        async with store.hold(SessionState("c1"), end_on=TooLong):
            raise TooLong
    assert (await store.get("c1")).ended_reason == "\u00e4" * 32


@pytest.mark.parametrize(
    ("given", "sent"),
    [("plain", "plain"), ("\u00e4\U0001f600", "\u00e4\U0001f600"), ("a\ud800b", "a\ufffdb"), ("\udc00", "\ufffd"),
     ("\ud83d\ude00", "\U0001f600"), ("\ud800\ud800x", "\ufffd\ufffdx"), ("x\ud800", "x\ufffd")],
    ids=ascii,
)  # fmt: skip
async def test_a_lone_surrogate_is_sent_as_go_writes_it(store: FlakyStore, given: str, sent: str) -> None:
    assert well_formed(given) == sent
    extra = {given: [given, {"a": given}]}
    async with store.hold(SessionState("c1", to=given)) as call:
        call.add_turn("user", given, extra=extra)
        await call.add_turn("r" + given, "x")
        await call.update(provider="p" + given, recovery_data={given: given})
        assert call.state.history[0].content == sent
        assert call.state.recovery_data == {sent: sent}
        await call.amend_last_turn(content="x" + given)
        await store.add_turn("c1", "user", given, extra=extra)
        kept = await store.load("c1")
        assert (kept.to, kept.provider, kept.recovery_data) == (sent, "p" + sent, {sent: sent})
        assert [turn.content for turn in kept.history] == [sent, "x" + sent, sent]
        assert kept.history[0].extra == kept.history[2].extra == {sent: [sent, {"a": sent}]}
        call.end(detail={"said": given})


def test_a_wellformed_value_is_not_copied() -> None:
    value = {"a": ["x", {"b": "\u00e4"}], "n": 1}
    assert cleaned(value) is value


async def test_an_enum_is_its_value(store: FlakyStore) -> None:
    async with store.hold(SessionState("c1")) as call:
        turn = call.add_turn(Who.AGENT, Who.AGENT, 10)
        await turn
        assert type(turn.turn.role) is str
        assert call.state.metrics.agent_speech_duration_ms == 10
    assert (await store.load("c1")).history[0].role == "agent"
