"""`session.update`: a merge patch of everything but the history."""

from __future__ import annotations

from callstate_client.errors import InvalidParamsError
from support.core import TIME, Core
from support.verbs import refused


async def test_an_update_patches_everything_but_the_history(core: Core) -> None:
    await core.save("a", session={"x": 1, "history": [{"timestamp": TIME}]})
    await core.call("session.update", session_id="a", set={"status": "on_hold", "x": None, "y": {"z": 2}})
    loaded = await core.call("session.load", session_id="a")
    assert loaded["session"]["status"] == "on_hold"
    assert "x" not in loaded["session"]
    assert loaded["session"]["y"] == {"z": 2}
    assert loaded["turn_count"] == 1
    error = await refused(InvalidParamsError, core, "session.update", session_id="a", set={"history": []})
    assert error.data["path"] == "$.params.set.history"
