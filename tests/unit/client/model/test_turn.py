"""What a turn was written as is kept; here is everything that must make it be written anew."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from callstate_client.errors import DocumentError
from callstate_client.model import SessionState
from callstate_client.model import turn as turn_module
from callstate_client.model.history import History
from callstate_client.model.members import encode_members
from callstate_client.model.turn import Turn, decode_turn
from callstate_client.requests import validation

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def written(history: History) -> bytes:
    """As it is saved."""
    return b"".join(history.pieces(validation.check_extra))


def anew(history: History) -> bytes:
    """As it would be written if nothing were kept."""
    members = [turn.to_dict() for turn in history]
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


def said(content: str, extra: dict[str, Any] | None = None) -> Turn:
    return Turn("user", content, timestamp=AT, duration_ms=1, extra=extra)


def decoded(content: str, more: str = "") -> Turn:
    text = '{"role":"user","content":"%s","timestamp":"2026-01-02T03:04:05Z","duration_ms":1%s}'
    return decode_turn((text % (content, more)).encode())


MAKERS: list[Callable[[], Turn]] = [
    lambda: said("a"),
    lambda: said("a", {}),
    lambda: said("a", {"x": 1}),
    lambda: said("a", {"x": [1]}),
    lambda: decoded("a"),
    lambda: decoded("a", ',"x":1'),
    lambda: decoded("a", ',"x":[1]'),
    lambda: SessionState("c1").add_turn("user", "a", 1, at=AT),
    lambda: SessionState("c1").add_turn("user", "a", 1, at=AT, extra={"x": 1}),
    lambda: SessionState("c1").add_turn("user", "a", 1, at=AT, extra={"x": [1]}),
]

CHANGES: list[Callable[[Turn], object]] = [
    lambda turn: setattr(turn, "role", "agent"),
    lambda turn: setattr(turn, "content", "b"),
    lambda turn: setattr(turn, "duration_ms", True),  # equal to what it was, but not in JSON
    lambda turn: setattr(turn, "timestamp", datetime(2027, 1, 1, tzinfo=UTC)),
    lambda turn: setattr(turn, "extra", {"y": 2}),
    lambda turn: setattr(turn, "extra", {}),
    lambda turn: turn.extra.update(x=True),
    lambda turn: turn.extra.update(y={"z": None}),
    lambda turn: turn.extra.setdefault("x", []),
    lambda turn: turn.extra.clear(),
]


@pytest.mark.parametrize("made", MAKERS)
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_turn_is_written(made: Callable[[], Turn], change: Callable[[Turn], object]) -> None:
    for again in CHANGES:
        turn = made()
        history = History([said("before"), turn, said("behind")])
        assert written(history) == anew(history)
        for act in (change, again, change):
            act(turn)
            assert written(history) == anew(history)


@pytest.mark.parametrize("made", MAKERS)
def test_extra_that_was_taken_before_may_change_at_any_time(made: Callable[[], Turn]) -> None:
    turn = made()
    history, extra = History([turn, said("b")]), turn.extra
    for _ in range(2):
        for change in (lambda: extra.update(y=[1]), lambda: extra["y"].append(2), extra.clear):
            written(history)
            change()
            assert written(history) == anew(history)


def test_extra_that_was_given_stays_the_givers() -> None:
    mine: dict[str, Any] = {}
    tags = [1]
    state = SessionState("c1", history=[said("a", mine)])
    state.add_turn("user", "b", at=AT, extra={"tags": tags})
    for _ in range(2):
        written(state.history)
        mine["x"] = len(mine)
        tags.append(2)
        assert json.loads(written(state.history)) == [
            {"role": "user", "content": "a", "timestamp": "2026-01-02T03:04:05Z", "duration_ms": 1, **mine},
            {"role": "user", "content": "b", "timestamp": "2026-01-02T03:04:05Z", "duration_ms": 0, "tags": tags},
        ]


@pytest.mark.parametrize(
    "made",
    [
        lambda: said("a"),
        lambda: said("a", {}),
        lambda: decoded("a", ',"x":1'),
        lambda: decoded("a", ',"x":[1]'),
        lambda: SessionState("c1").add_turn("user", "a", 1, at=AT, extra={"x": 1}),
    ],
)
def test_an_unchanged_turn_keeps_its_bytes(made: Callable[[], Turn]) -> None:
    history = History([made(), made()])
    first = history.pieces(validation.check_extra)
    assert history.pieces(validation.check_extra)[1] is first[1]
    asked: list[Any] = []
    history.append(decoded("b", ',"y":2'))
    assert b"".join(history.pieces(asked.append)) == anew(history)
    assert asked == [{"y": 2}]
    history = History([decoded("c", ',"z":3'), *history])
    history[-1].content = "d"
    assert b"".join(history.pieces(asked.append)) == anew(history)
    assert asked == [{"y": 2}, {"z": 3}, {"y": 2}]


def test_a_turn_in_two_histories_or_twice_in_one() -> None:
    turn = said("a")
    histories = [History([turn]), History([said("x"), turn, said("y"), turn])]
    for n in range(3):
        for history in histories:
            assert written(history) == anew(history)
        turn.content = f"b{n}"
    del histories[1][1]
    for history in histories:
        written(history)
    turn.content = "c"
    for history in histories:
        assert written(history) == anew(history)


def test_a_turn_that_was_only_read_is_still_checked_when_saved() -> None:
    history = History([said("a"), said("b", {"x": float("nan")}), decoded("c", f',"x":{2**64}')])
    assert len(json.loads(b"".join(history.pieces()))) == 3
    with pytest.raises(DocumentError, match="nan"):
        written(history)
    del history[1]
    b"".join(history.pieces())
    with pytest.raises(DocumentError, match="64 bits"):
        written(history)
    del history[1]
    assert written(history) == anew(history)


def test_after_a_turn_that_can_not_be_written() -> None:
    history = History([said("a"), said("b")])
    written(history)
    history.append(said(object()))  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(DocumentError):
            written(history)
    history[-1].content = "c"
    assert written(history) == anew(history)


def test_a_copy_has_nothing_to_do_with_it() -> None:
    turn = decoded("a", ',"x":[1]')
    history = History([turn])
    written(history)
    other = copy.deepcopy(turn)
    other.extra["x"].append(2)
    other.content = "b"
    assert b'"x":[1]' in written(history)
    assert written(History([other])) == anew(History([other]))


def test_a_change_by_another_thread_just_behind_the_writing_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = said("a")
    history = History([turn])

    def changed_meanwhile(members: Any) -> bytes:
        encoded = encode_members(members)
        turn.content = "b"
        return encoded

    monkeypatch.setattr(turn_module, "encode_members", changed_meanwhile)
    assert b'"a"' in written(history)
    monkeypatch.undo()
    assert written(history) == anew(history)
    assert b'"b"' in written(history)


@pytest.mark.parametrize("given", [900, 900.0])
def test_a_duration_in_the_place_of_the_time_is_said(given: Any) -> None:
    with pytest.raises(TypeError, match=f"is its timestamp.*duration_ms={given}"):
        Turn("user", "x", given)
    with pytest.raises(TypeError, match=r"is its timestamp, a datetime, not 'now'$"):
        Turn("user", "x", "now")  # type: ignore[arg-type]
