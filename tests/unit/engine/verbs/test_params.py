"""Params that every verb refuses alike: invalid ids, unknown sessions, bad JSON."""

from __future__ import annotations

import pytest

from callstate_client.errors import InvalidParamsError, ParseError, SessionNotFoundError
from support.core import Core
from support.verbs import refused


@pytest.mark.parametrize("bad", ["", "a b", "a{b}", "@a", "active", "é", "x" * 257, "a\n"])
async def test_an_invalid_session_id_is_refused(core: Core, bad: str) -> None:
    error = await refused(InvalidParamsError, core, "session.save", session={"id": bad})
    assert error.data["path"] == "$.params.session.id"
    for method in ("session.load", "session.heartbeat", "session.delete", "session.end"):
        error = await refused(InvalidParamsError, core, method, session_id=bad)
        assert error.data["path"] == "$.params.session_id"


async def test_an_unknown_session_is_not_found(core: Core) -> None:
    for method, params in (
        ("session.load", {}),
        ("session.heartbeat", {}),
        ("session.add_turn", {"turn": {}}),
        ("session.amend_turn", {"set": {}}),
        ("session.record_interruption", {}),
        ("session.update", {"set": {}}),
        ("session.end", {}),
        ("session.delete", {}),
        ("session.delete", {"op": "op-1", "epoch": 3}),
    ):
        await refused(SessionNotFoundError, core, method, session_id="nobody", **params)


async def test_params_with_a_lone_surrogate_are_a_parse_error(core: Core) -> None:
    with pytest.raises(ParseError):
        await core.begin("session.load", b'{"session_id":"\\ud800"}')
    with pytest.raises(ParseError):
        await core.begin("session.save", b'{"session":{"id":"a","x":"\\ud800"}}')
