from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest

from callstate_client.errors import DocumentError
from callstate_client.model.history import LAST_TURN_BYTES, History
from callstate_client.model.turn import Turn, decode_turn

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RAW = b'{"role":"user","content":"hello","timestamp":"2026-01-02T03:04:05.123456789+02:00","duration_ms":9,"x":[1]}'


def raw_history(*turns: bytes) -> History:
    return History.of_json(msgspec.Raw(b"[%b]" % b",".join(turns)))


def test_a_turn_has_the_current_time_by_default() -> None:
    before = datetime.now(UTC)
    assert before <= Turn("user", "x").timestamp <= datetime.now(UTC)
    assert Turn("user", "x", timestamp=AT).timestamp == AT


def test_a_turn_decodes_with_what_we_do_not_know() -> None:
    turn = decode_turn(RAW)
    assert (turn.role, turn.content, turn.duration_ms, turn.extra) == ("user", "hello", 9, {"x": [1]})
    assert turn.timestamp == datetime(2026, 1, 2, 1, 4, 5, 123456, tzinfo=UTC)
    assert msgspec.json.encode(turn.to_dict()) == RAW  # nobody assigned the time, so its nanoseconds stay


@pytest.mark.parametrize("bad", [b"3", b"[]", b'{"role":3}', b'{"duration_ms":1.5}', b"{", b'{"content":"\xff"}'])
def test_an_invalid_turn_is_a_document_error(bad: bytes) -> None:
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


def test_a_history_that_is_not_read_stays_bytes() -> None:
    history = raw_history(RAW, RAW, RAW)
    assert history[-1].content == "hello"
    first = history.pieces()[0]
    assert isinstance(first, memoryview), "a part of what came"
    assert bytes(first) == b"[" + RAW + b"," + RAW


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
    assert b"".join(history.pieces()) == b"[" + RAW.replace(b"hello", b"bye") + b"]"


PLAIN = [
    b'{"role":"user","content":"%d","timestamp":"2026-01-02T03:04:05Z","duration_ms":%d}' % (n, n) for n in range(4)
]


def written(history: History) -> bytes:
    return b"".join(history.pieces())


def is_one_piece(history: History) -> bool:
    """Whether nobody has cut it into turns yet."""
    return history._array is not None


def test_the_last_turn_is_found_from_the_end() -> None:
    history = raw_history(*PLAIN)
    last = history[-1]
    assert last.content == "3"
    assert history[-1] is last
    assert is_one_piece(history)
    assert written(history) == b"[%b]" % b",".join(PLAIN)
    assert [turn.content for turn in history] == ["0", "1", "2", "3"]
    assert history[3] is last
    assert not is_one_piece(history)


def test_turns_appended_to_an_undecoded_history_follow_it() -> None:
    history = raw_history(*PLAIN)
    history.append(decode_turn(PLAIN[0]))
    assert history[-1].content == "0"
    assert is_one_piece(history)
    assert written(history) == b"[%b]" % b",".join([*PLAIN, PLAIN[0]])
    assert len(history) == 5
    assert history[-2].content == "3"


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda h: h.pop(), "012"),
        (lambda h: (h[-1], h.pop()), "012"),
        (lambda h: (h[-1], h.pop(), h[-1], h.pop()), "01"),
        (lambda h: (h[-1], h.pop(), h.append(Turn("user", "x"))), "012x"),
        (lambda h: h.__setitem__(-1, Turn("user", "x")), "012x"),
        (lambda h: (h[-1], h.__setitem__(-1, Turn("user", "x"))), "012x"),
        (lambda h: setattr(h[-1], "content", "x"), "012x"),
        (lambda h: (setattr(h[-1], "content", "x"), h[0]), "012x"),
        (lambda h: h.insert(0, Turn("user", "x")), "x0123"),
        (lambda h: (h.append(Turn("user", "x")), h.insert(-1, Turn("user", "y"))), "0123yx"),
        (lambda h: (h.append(Turn("user", "x")), h.__delitem__(0)), "123x"),
        (lambda h: (h[-1], h.__delitem__(slice(1, 3))), "03"),
        (lambda h: h.reverse(), "3210"),
        (lambda h: h.extend([Turn("user", "x"), Turn("user", "y")]), "0123xy"),
        (lambda h: h.clear(), ""),
    ],
)
def test_changes_before_and_after_it_is_cut(change: Callable[[History], object], left: str) -> None:
    history, twin = raw_history(*PLAIN), raw_history(*PLAIN)
    list(twin)
    for each in (history, twin):
        written(each)
        change(each)
        assert [turn["content"] for turn in msgspec.json.decode(written(each))] == [*left]
        assert bool(each) == bool(left)
        assert [turn.content for turn in each] == [*left]


TRAPS = [
    b'{"role":"user","content":"a},{","duration_ms":1}',
    b'{"role":"user","content":"a},{\\"role\\":\\"x\\"","duration_ms":1}',
    b'{"role":"user","x":[{"a":1},{"role":"agent"}]}',
    b'{"role":"user","x":{"y":[{},{"role":"agent"}]},"content":"]}"}',
    b'{"content":"},{",":1,":"}"}',
    b"{}",
    b'{ "role" : "user" }',
    b'{"content":"%b"}' % (b"x" * 2 * LAST_TURN_BYTES),
    b'{"content":"%b","x":[{},{"a":"}]"}]}' % (b"x" * 2 * LAST_TURN_BYTES),
]


@pytest.mark.parametrize("glue", [b",", b" , ", b",\n"])
@pytest.mark.parametrize("before", [[], [PLAIN[0]], TRAPS])
@pytest.mark.parametrize("last", TRAPS)
def test_no_turn_is_mistaken_for_another(last: bytes, before: list[bytes], glue: bytes) -> None:
    turns = [*before, last]
    history = History.of_json(msgspec.Raw(b"[%b]" % glue.join(turns)))
    assert history[-1] == decode_turn(last)
    assert list(history) == [decode_turn(turn) for turn in turns]


@pytest.mark.parametrize("empty", [b"null", b"[]", b"[ \n]"])
def test_no_turns(empty: bytes) -> None:
    history = History.of_json(msgspec.Raw(empty))
    assert not history
    assert written(history) == b"[]"
    with pytest.raises(IndexError):
        history[-1]


@pytest.mark.parametrize("bad", [b"3", b'"x"', b"{}", b"true"])
def test_invalid_histories(bad: bytes) -> None:
    with pytest.raises(DocumentError, match=r"at `\$\.history`"):
        History.of_json(msgspec.Raw(bad))


@pytest.mark.parametrize("bad", [b'[{"role":3}]', b'[{"role":"user"},3]', b'[{"role":"user"},{"content":"\xff"}]'])
def test_an_invalid_turn_is_refused_when_it_is_read(bad: bytes) -> None:
    history = History.of_json(msgspec.Raw(bad))
    with pytest.raises(DocumentError):
        history[-1]


def test_a_history_whose_syntax_is_broken() -> None:
    history = History.of_json(msgspec.Raw(b'[{"role":"user"},{"role"}]'))
    with pytest.raises(DocumentError):
        len(history)


def test_a_history_copies_and_pickles_as_it_is() -> None:
    history = raw_history(*PLAIN)
    history.append(Turn("user", "x", timestamp=AT))
    for other in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):  # noqa: S301 - our own bytes
        assert other == history
        other[0].content = "y"
        assert other != history


def test_a_history_that_was_not_read_knows_its_length() -> None:
    assert repr(raw_history(RAW, RAW)) == "History(2 turns)"
    assert repr(History()) == "History(0 turns)"
