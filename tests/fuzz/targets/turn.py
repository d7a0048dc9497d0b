"""A turn as `session.add_turn` takes it, and a merge patch of it as `session.amend_turn` does.

Input: the turn's JSON; a newline and the patch may follow.
"""

from __future__ import annotations

from msgspec import Raw

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.turn_patch import amended_turn
from callstate_client.engine.sessions.turn_search import find_turn
from callstate_client.engine.sessions.validation.turns import IncomingTurn, check_turn, check_turns, completed
from callstate_client.errors import ParseError, WireError
from fuzz import reference
from fuzz.documents import TIME, member
from support.go_reader import read_as_go

PATH = "$.params.turn"


def check(data: bytes) -> None:
    """Add one turn, by itself and in a list; then amend it."""
    first, _, second = data.partition(b"\n")
    text, patch = member(first), member(second)
    if text is not None and _added(text) is not None and patch is not None:
        _check_amend(completed(text, TIME), patch)


def _added(text: bytes) -> IncomingTurn | None:
    """The turn; None if it is refused."""
    try:
        turn = check_turn(text, PATH)
    except WireError as refused:
        turn = None
        if isinstance(refused, ParseError):
            _check_refusal(text, refused)
    try:
        listed = check_turns(b"[%b]" % text, PATH)
    except WireError:
        listed = None
    if turn is None:
        assert listed is None, "refused, and taken in a list"
        return None
    assert listed is not None, "taken, and refused in a list"
    value = reference.read(text)
    assert isinstance(value, dict)
    whole = {"role": "", "content": "", "timestamp": TIME, "duration_ms": 0} | value
    kept = reference.read(completed(text, TIME))
    assert reference.canonical(kept) == reference.canonical(whole), "completed, it has the values that it had"
    assert (turn.role, turn.content, turn.duration_ms) == tuple(
        whole[n] for n in ("role", "content", "duration_ms")
    )
    _check_stored(completed(text, TIME))
    return turn


def _check_amend(turn: bytes, patch: bytes) -> None:
    document = Document(read_head(b'{"id":"c1"}', "$", lambda _: TIME), 0)
    document.replace_history(turn, 1)
    try:
        changes = reference.read(patch)
    except (reference.NotJson, reference.TooDeep):
        changes = None
    place = find_turn(document, None)
    try:
        amended = amended_turn(place.text, Raw(patch), "$.params.set")
    except ParseError as refused:
        _check_refusal(patch, refused)
        return
    except WireError:
        return
    expected = reference.merged(reference.read(turn), changes)
    assert reference.canonical(reference.read(amended)) == reference.canonical(expected), "it is not RFC 7396"
    document.replace_turn(place, amended)
    assert document.chunks == [amended]
    _check_stored(amended)


def _check_refusal(text: bytes, refused: ParseError) -> None:
    try:
        reference.read(text)
    except (reference.NotJson, reference.TooDeep):
        return
    # in the history of a save, a turn is the fifth level of the message
    assert not reference.passes_limits(text, above=4), f"JSON, refused as {refused}"


def _check_stored(turn: bytes) -> None:
    """Check that Go reads the turn in its document."""
    read_as_go(b'{"id":"c1","history":[%b]}' % turn)
