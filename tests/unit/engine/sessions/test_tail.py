"""The last turns of a run are those that cutting all of it gives, whatever stands in them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callstate_client.engine.sessions import tail
from support.budget import examples

TRICKS = st.text(st.sampled_from(list('{}[],:"\\ ae1')), max_size=12)
VALUES: Any = st.recursive(
    st.none() | st.integers(-9, 9) | TRICKS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKS, inner, max_size=3),
    max_leaves=6,
)
TURNS = st.dictionaries(TRICKS, VALUES, max_size=4)
GAPS = st.sampled_from([",", " , ", ",\n"])


@settings(max_examples=examples(100))
@given(st.lists(TURNS, min_size=1, max_size=8), GAPS, st.data())
def test_from_no_other_place_on_it_is_a_list(turns: list[dict[str, Any]], gap: str, data: st.DataObject) -> None:
    """Each `{` either begins a turn, or what follows is refused."""
    texts = [json.dumps(turn, separators=data.draw(st.sampled_from([(",", ":"), (", ", " : ")]))) for turn in turns]
    run = gap.join(texts).encode()
    begins, at = set(), 0
    for text in texts:
        begins.add(at)
        at += len(text.encode()) + len(gap)
    for start in [at for at, byte in enumerate(run) if byte == ord("{")]:
        found = tail._within(run, start)
        if start in begins:
            assert found is not None
            assert (found[0], [bytes(part) for part in found[1]]) == (
                start, [text.encode() for text in texts[sorted(begins).index(start) :]],
            )  # fmt: skip
        elif found is not None:
            assert found[0] in begins or not found[1], "a place inside of a turn was taken for a turn's begin"


def run_of(count: int, **more: Any) -> bytes:
    return b",".join(json.dumps({"content": f"turn {number}", **more}).encode() for number in range(count))


@pytest.mark.parametrize("count", [0, 1, 2, 30, 2999, 3000, 9999])
def test_as_many_as_are_wanted_are_given(count: int) -> None:
    turns = run_of(3000)
    start, found = tail.last_turns(turns, count)
    assert len(found) >= min(count, 3000)
    assert b",".join(map(bytes, found)) == turns[start:]


def test_a_few_turns_are_found_by_parsing_little(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    cut = tail.cut

    def counted(text: bytes) -> list[Any]:
        looked.append(len(text))
        return cut(text)

    monkeypatch.setattr(tail, "cut", counted)
    tail.last_turns(run_of(30_000), 2)
    assert sum(looked) < 40_000


def test_a_turn_of_thousands_of_brackets_is_cut_with_all() -> None:
    turns = run_of(3, deep=[{"a": {}}] * 20_000)
    start, found = tail.last_turns(turns, 1)
    assert (start, len(found)) == (0, 3)


def in_pieces(turns: list[bytes], between: bytes, piece_bytes: int) -> list[tuple[bytes, int]]:
    steps = tail.cut_run(between.join(turns), len(turns), piece_bytes)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


PLAIN = [b'{"role":"user","content":"%d"}' % number for number in range(500)]
BRACKETS = [b'{"content":"%b"}' % (b'{\\"a\\":[' * number) for number in range(200)]
LONG = [b'{"content":"%b","x":[{},{}]}' % (b"x" * (3000 if number % 5 == 0 else 3)) for number in range(50)]


@pytest.mark.parametrize("between", [b",", b" ,\n "])
@pytest.mark.parametrize("turns", [PLAIN, BRACKETS, LONG, PLAIN[:1], LONG[:1], LONG[:2]], ids=len)
def test_a_run_is_cut_between_turns(turns: list[bytes], between: bytes) -> None:
    pieces = in_pieces(turns, between, 1000)
    assert b",".join(text for text, _ in pieces) == between.join(turns)
    for text, count in pieces:
        assert len(msgspec.json.decode(b"[%b]" % text)) == count
        assert len(text) <= 2000 or count == 1
