"""`session.heartbeat`, and which other requests are signs of life."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.phases import Phase
from callstate_client.errors import InvalidParamsError
from support.core import TIME, Core
from support.verbs import SIGNS_OF_LIFE, refused


@pytest.mark.parametrize(("method", "params"), SIGNS_OF_LIFE.values(), ids=SIGNS_OF_LIFE)
async def test_every_change_and_heartbeat_is_a_sign_of_life(
    core: Core, method: str, params: dict[str, Any]
) -> None:
    await core.save("a", session={"history": [{"timestamp": TIME}]})
    for _ in range(10):
        core.clock.advance(29.0)
        await core.call(method, **params)
        core.reaper.tick(core.clock.live())
        assert core.phase("a") is Phase.LIVE
    assert core.session("a").beat_us == core.clock.wall_us()


async def test_reading_is_no_sign_of_life(core: Core) -> None:
    await core.save("a")
    core.clock.advance(30.0)
    await core.call("session.load", session_id="a")
    await core.call("session.list")
    core.reaper.tick(core.clock.live())
    assert core.phase("a") is Phase.SUSPECT


async def test_a_heartbeat_names_one_session_or_several(core: Core) -> None:
    for params in ({}, {"session_id": "a", "session_ids": ["a"]}):
        error = await refused(InvalidParamsError, core, "session.heartbeat", **params)
        assert error.data["path"] == "$.params"
