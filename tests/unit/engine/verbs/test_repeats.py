"""Requests repeated with the same `op`: they get the first result and change nothing."""

from __future__ import annotations

from typing import Any

from support.core import Core, kept


async def test_a_repeat_gets_the_first_result_and_changes_nothing(core: Core) -> None:
    await core.save("a")
    mutations: list[tuple[str, dict[str, Any]]] = [
        ("session.add_turn", {"turn": {}, "op": "1"}),
        ("session.amend_turn", {"set": {"content": "x"}, "op": "2"}),
        ("session.record_interruption", {"op": "3"}),
        ("session.update", {"set": {"x": 1}, "op": "4"}),
        ("session.end", {"op": "5"}),
    ]
    first = [await core.raw(method, session_id="a", **params) for method, params in mutations]
    saved = await core.raw("session.save", session={"id": "a", "status": "active"}, op="6")
    before = kept(core.session("a"))
    core.clock.advance(1.0)
    assert [await core.raw(method, session_id="a", **params) for method, params in mutations] == first
    assert await core.raw("session.save", session={"id": "a", "status": "ended"}, op="6", if_version=1) == saved
    assert kept(core.session("a")) == before
    assert core.replayed().sessions["a"].ops["1"] == first[0], "also after a restart"


async def test_the_last_sixteen_can_be_repeated(core: Core) -> None:
    await core.save("a")
    for number in range(17):
        await core.turn("a", op=str(number))
    assert (await core.turn("a", op="1"))["turn_count"] == 2
    assert (await core.turn("a", op="0"))["turn_count"] == 18, "forgotten, and so executed again"
