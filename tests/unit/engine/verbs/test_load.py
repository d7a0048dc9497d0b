"""`session.load`: which part of the history it gives."""

from __future__ import annotations

from callstate_client.errors import InvalidParamsError
from support.core import TIME, Core
from support.verbs import refused


async def test_parts_of_a_history(core: Core) -> None:
    turns = [{"content": str(number), "timestamp": TIME} for number in range(5)]
    await core.save("a", session={"history": turns})
    for history, begin in (("all", 0), (0, 5), (2, 3), (5, 0), (99, 0)):
        loaded = await core.call("session.load", session_id="a", history=history)
        assert loaded["session"]["history"] == turns[begin:]
        assert (loaded["history_from"], loaded["turn_count"]) == (begin, 5)
    none = await core.call("session.load", session_id="a", history="none")
    assert "history" not in none["session"]
    assert (none["history_from"], none["turn_count"]) == (0, 5)
    for wrong in ("some", -1, 1.5, None):
        error = await refused(InvalidParamsError, core, "session.load", session_id="a", history=wrong)
        assert error.data["path"] == "$.params.history"


async def test_updated_at_is_the_later_of_change_and_heartbeat(core: Core) -> None:
    await core.save("a")
    core.clock.advance(2.0)
    await core.call("session.heartbeat", session_id="a")
    core.clock.advance(2.0)
    loaded = await core.call("session.load", session_id="a")
    assert loaded["session"]["updated_at"] == "2026-01-01T00:00:02Z"
