from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime

import msgspec
import pytest

from callstate_client.errors import DocumentError
from callstate_client.history import History, Turn, decode_turn

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RAW = b'{"role":"user","content":"hello","timestamp":"2026-01-02T03:04:05.123456789+02:00","duration_ms":9,"x":[1]}'


def raw_history(*turns: bytes) -> History:
    return History.of_json(msgspec.Raw(b"[%b]" % b",".join(turns)))


def test_a_turn_is_now_unless_told() -> None:
    before = datetime.now(UTC)
    assert before <= Turn("user", "x").timestamp <= datetime.now(UTC)
    assert Turn("user", "x", timestamp=AT).timestamp == AT


def test_a_turn_decodes_with_what_we_do_not_know() -> None:
    turn = decode_turn(RAW)
    assert (turn.role, turn.content, turn.duration_ms, turn.extra) == ("user", "hello", 9, {"x": [1]})
    assert turn.timestamp == datetime(2026, 1, 2, 1, 4, 5, 123456, tzinfo=UTC)
    assert msgspec.json.encode(turn.to_dict()) == RAW  # nobody assigned the time, so its nanoseconds stay


@pytest.mark.parametrize("bad", [b"3", b"[]", b'{"role":3}', b'{"duration_ms":1.5}', b"{", b'{"content":"\xff"}'])
def test_what_is_no_turn_is_a_document_error(bad: bytes) -> None:
    with pytest.raises(DocumentError):
        decode_turn(bad)


def test_turns_compare_by_moment_not_by_text() -> None:
    mine = decode_turn(b'{"timestamp":"2026-01-02T03:04:05Z"}')
    assert mine == decode_turn(b'{"timestamp":"2026-01-02T04:04:05+01:00"}')
    assert mine != decode_turn(b'{"timestamp":"2026-01-02T03:04:06Z"}')
    assert mine != decode_turn(b'{"timestamp":"2026-01-02T03:04:05Z","x":1}')
    assert mine != "a turn"


def test_a_repr_shows_nothing_that_was_said() -> None:
    assert "secret" not in repr(Turn("user", "secret"))
    assert "secret" not in repr(History([Turn("user", "secret")]))


def test_a_turn_pickles_and_copies() -> None:
    turn = decode_turn(RAW)
    assert pickle.loads(pickle.dumps(turn)) == turn == copy.deepcopy(turn)  # noqa: S301 - our own bytes


def test_what_nobody_looks_at_stays_bytes() -> None:
    history = raw_history(RAW, RAW, RAW)
    assert history[-1].content == "hello"
    assert [type(part) for part in history.parts()] == [msgspec.Raw, msgspec.Raw, dict]
    assert [turn.content for turn in history.decoded()] == ["hello"]


def test_it_is_a_list() -> None:
    one, two, three = (Turn("user", text, timestamp=AT) for text in ("1", "2", "3"))
    history = History([one])
    history.append(three)
    history.insert(1, two)
    assert history == [one, two, three] == list(history)
    assert history[1:] == [two, three]
    assert history[-1] is three
    history[0] = three
    del history[1]
    assert history == [three, three]
    assert history != [three]
    assert history != "33"
    assert history.pop() is three
    history.clear()
    assert not history
    with pytest.raises(IndexError):
        history[0]


def test_a_turn_that_is_changed_is_written_changed() -> None:
    history = raw_history(RAW)
    history[0].content = "bye"
    assert msgspec.json.encode(history.parts()) == b"[" + RAW.replace(b"hello", b"bye") + b"]"
