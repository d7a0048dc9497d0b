"""A document in parts is at every moment what a plain list of turns would be."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Raw
from msgspec import json as msgspec_json

from callstate_client.engine.sessions.document import HEAD_REST_BYTES, Document
from callstate_client.engine.sessions.folding import FOLD_BYTES
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.turn_patch import amended_turn
from callstate_client.engine.sessions.turn_search import find_turn
from callstate_client.model.merge import merge_patch
from callstate_client.model.times import format_us, parse_us
from support.budget import examples
from support.documents import count_turns

EDGES = st.sampled_from([0, 1, 900, 2**62, 2**63 - 1, -(2**63)])
STAMPS = ["2026-01-01T00:00:00.123456789Z", "0001-01-01T00:00:00Z", "2026-01-01T00:00:00+05:30"]
SPACES = st.sampled_from(["", " ", "\t", "\r\n  "])
NAMES = st.sampled_from(["role", "content", "interrupted", "tool", "é", 'quo"ted', "\U0001f600"])
VALUES = st.recursive(
    st.none() | st.booleans() | EDGES | st.text(max_size=8) | st.sampled_from([1.5, -0.0, 1e300]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def turn_bytes(draw: st.DrawFn) -> bytes:
    """A turn as somebody else's encoder may write it: any order, spaces, escapes, nanoseconds, more members."""
    role = draw(st.sampled_from(["user", "agent", "tool", "", "é"]))
    content = draw(st.text(max_size=20) | st.sampled_from(['}],"a":[{', "\\", '"', "\x00", "x" * 9000]))
    pad, ascii_only = draw(SPACES), draw(st.booleans())
    members = [
        f'"role":{pad}{json.dumps(role, ensure_ascii=ascii_only)}',
        f'"content"{pad}:{json.dumps(content, ensure_ascii=ascii_only)}',
        f'"duration_ms":{draw(EDGES)}',
    ]
    stamp = draw(st.sampled_from(STAMPS))
    members.append(f'"timestamp":"{stamp}"')
    if draw(st.booleans()):
        members.append(f'"x":{json.dumps(draw(VALUES))}')
    joined = f"{pad},{pad}".join(draw(st.permutations(members)))
    return f"{{{pad}{joined}{pad}}}".encode("utf-8", "surrogatepass")


def is_text(data: bytes) -> bool:
    """Whether it is UTF-8; validation has refused everything else."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\\ud" not in data.lower().replace(b"\\\\", b"")  # no surrogates, paired or not: of no use here


TURNS = turn_bytes().filter(is_text)


def new_document() -> Document:
    """A document without turns."""
    return Document(read_head(b'{"id":"a","status":"active"}', "$", lambda _: "2026-01-01T00:00:00Z"), 0)


class DocumentMachine(RuleBasedStateMachine):
    """Every mutation, with an undo of all since a mark at any time."""

    @initialize()
    def begin(self) -> None:
        self.doc = new_document()
        self.session = Session("a", self.doc)
        self.turns: list[bytes] = []
        self.marked: tuple[Any, list[bytes]] | None = None

    @rule(turns=st.lists(TURNS, max_size=3), gap=SPACES)
    def append(self, turns: list[bytes], gap: str) -> None:
        self.doc.append(f"{gap},".encode().join(turns), len(turns))
        self.turns += turns

    @rule(turn=TURNS, times=st.integers(30, 70))
    def append_often(self, turn: bytes, times: int) -> None:
        for _ in range(times):
            self.doc.append(turn, 1)
        self.turns += [turn] * times

    @rule(turns=st.lists(TURNS, max_size=5))
    def replace(self, turns: list[bytes]) -> None:
        self.doc.replace_history(b",".join(turns), len(turns))
        self.turns = [*turns]

    @rule(turns=st.lists(TURNS, max_size=3))
    def save_with_more(self, turns: list[bytes]) -> None:
        """What a client does that loaded, appended and saved."""
        before = b",".join(self.doc.chunks)
        rest = self.doc.extension(b",".join([before, *turns] if before else turns))
        assert rest is not None, "it begins with what is kept"
        assert rest == b",".join(turns)
        if rest:
            self.doc.append(rest, count_turns(rest))
            self.turns += turns

    @precondition(lambda self: self.turns)
    @rule(turns=st.lists(TURNS, max_size=3), data=st.data())
    def no_extension(self, turns: list[bytes], data: st.DataObject) -> None:
        """A history that lacks the last turn, or has another in its place, is none."""
        other = data.draw(TURNS.filter(lambda turn: turn != self.turns[-1]))
        assert self.doc.extension(b",".join([*self.turns[:-1], other, *turns])) is None
        if self.turns[:-1]:
            assert self.doc.extension(b",".join(self.turns[:-1])) is None

    @precondition(lambda self: self.turns)
    @rule(turn=TURNS, data=st.data())
    def replace_turn(self, turn: bytes, data: st.DataObject) -> None:
        index = data.draw(st.integers(-len(self.turns), len(self.turns) - 1))
        place = find_turn(self.doc, index)
        assert place.index == index % len(self.turns)
        assert bytes(place.text).strip() == self.turns[index].strip()
        self.doc.replace_turn(place, turn)
        self.turns[index] = turn

    @precondition(lambda self: self.turns)
    @rule(content=st.text(max_size=5), extra=VALUES)
    def amend(self, content: str, extra: Any) -> None:
        before = json.loads(self.turns[-1])
        place = find_turn(self.doc, None)
        turn = amended_turn(place.text, Raw(json.dumps({"content": content, "more": extra}).encode()), "$")
        expected = before | {"content": content}
        assert {k: v for k, v in json.loads(turn).items() if k != "more"} == {
            k: v for k, v in expected.items() if k != "more"
        }
        self.doc.replace_turn(place, turn)
        self.turns[-1] = turn

    @rule()
    def mark(self) -> None:
        self.marked = (self.session.mark(), [*self.turns])

    @precondition(lambda self: self.marked)
    @rule()
    def undo(self) -> None:
        assert self.marked is not None
        self.session.restore(self.marked[0])
        self.turns = [*self.marked[1]]

    @invariant()
    def same_as_the_list(self) -> None:
        history = b",".join(self.doc.chunks)
        assert count_turns(history) == len(self.turns) == self.doc.turn_count
        assert squeezed(history) == squeezed(b",".join(self.turns))
        assert b'"history":[%b]}' % history in self.doc.to_json(0)
        json.loads(self.doc.to_json(0))

    @invariant()
    def last_turns_are_theirs(self) -> None:
        for count in {0, 1, 2, 40, len(self.turns)}:
            last = self.doc.last_turns(count)
            expected = self.turns[len(self.turns) - count :] if count < len(self.turns) else self.turns
            assert squeezed(last) == squeezed(b",".join(expected))

    @invariant()
    def size_is_right(self) -> None:
        """The history's to the byte, the head's as it is said."""
        assert self.doc.history_bytes == len(b",".join(self.doc.chunks))
        assert abs(self.doc.size - len(self.doc.to_json(0))) < HEAD_REST_BYTES

    @invariant()
    def chunks_stay_few(self) -> None:
        size = sum(map(len, self.doc.chunks))
        assert len(self.doc.chunks) <= 64 + 4 * size // FOLD_BYTES
        assert all(self.doc.chunks), "an empty chunk would make a comma too many"


def squeezed(history: bytes) -> list[bytes]:
    """The turns, each with the bytes it has."""
    return [bytes(part) for part in _parts(b"[%b]" % history)]


def _parts(array: bytes) -> list[Raw]:
    return msgspec_json.decode(array, type=list[Raw])


TestDocument = DocumentMachine.TestCase
TestDocument.settings = settings(max_examples=examples(50), stateful_step_count=15)


@settings(max_examples=examples(100))
@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_times_come_back(at_us: int) -> None:
    assert parse_us(format_us(at_us)) == at_us


@settings(max_examples=examples(100))
@given(VALUES, VALUES)
def test_a_merge_patch_is_rfc_7396(target: Any, patch: Any) -> None:
    assert merge_patch(target, patch) == reference_patch(target, patch)


def reference_patch(target: Any, patch: Any) -> Any:
    """The pseudocode of RFC 7396, section 2, word for word."""
    if isinstance(patch, dict):
        if not isinstance(target, dict):
            target = {}
        target = dict(target)
        for name, value in patch.items():
            if value is None:
                if name in target:
                    del target[name]
            else:
                target[name] = reference_patch(target.get(name), value)
        return target
    return patch
