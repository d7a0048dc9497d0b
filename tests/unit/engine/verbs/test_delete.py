"""`session.delete`: repeats, tombstones, and new sessions under a deleted id."""

from __future__ import annotations

import pytest

from callstate_client.errors import SessionNotFoundError
from support.clock import START_US
from support.core import Core
from support.verbs import refused


async def test_a_deletion_is_final(core: Core) -> None:
    await core.save("a")
    await core.writer.write_round()
    await core.call("session.delete", session_id="a")
    for advance_s in (0.0, 5.0):
        core.clock.advance(advance_s)
        await refused(SessionNotFoundError, core, "session.load", session_id="a")
    await core.writer.write_round()
    core.clock.advance(5.0)
    await refused(SessionNotFoundError, core, "session.load", session_id="a")
    saved = await core.save("a", if_version=0)
    await core.writer.write_round()
    assert core.memory.versions() == {"a": saved["version"]}


@pytest.mark.parametrize("stored", [False, True])
async def test_a_repeated_deletion_gets_the_first_result(core: Core, stored: bool) -> None:
    await core.save("a")
    if stored:
        await core.writer.write_round()
    asked = {"session_id": "a", "op": "op-1"}
    assert await core.call("session.delete", **asked) == {}
    for _ in range(2):
        assert await core.call("session.delete", **asked) == {}
        await refused(SessionNotFoundError, core, "session.delete", session_id="a")
        await refused(SessionNotFoundError, core, "session.delete", session_id="a", op="op-2")
        await core.writer.write_round()
        core.clock.advance(5)  # longer than a miss is remembered: now the store's tombstone says it


async def test_a_late_repeat_of_a_deletion_spares_the_session_created_since(core: Core) -> None:
    await core.save("a")
    await core.call("session.delete", session_id="a", op="op-1")
    await core.save("a")
    assert await core.call("session.delete", session_id="a", op="op-1") == {}
    assert "a" in core.table.sessions
    assert await core.call("session.delete", session_id="a", op="op-2") == {}
    assert "a" not in core.table.sessions


async def test_a_new_session_under_a_deleted_id_is_stored_also_when_the_clock_was_set_back(core: Core) -> None:
    await core.save("a")
    await core.writer.write_round()
    await core.call("session.delete", session_id="a")
    core.clock.at_us -= 3_600_000_000
    saved = await core.save("a")
    assert saved["version"] > START_US
    await core.writer.write_round()
    assert core.memory.versions() == {"a": saved["version"]}
    assert not core.session("a").quarantined


async def test_versions_grow_over_a_deletion_that_was_not_flushed(core: Core) -> None:
    await core.save("a")
    await core.turn("a")
    await core.call("session.delete", session_id="a")
    assert (await core.save("a"))["version"] > START_US + 1
