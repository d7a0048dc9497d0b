"""Limits: the size of a session, the number of sessions, and how much may wait for the store."""

from __future__ import annotations

import asyncio
from pathlib import Path

from callstate_client.engine.interfaces import InternalCaller
from callstate_client.engine.sessions.weight import SESSION_BYTES
from callstate_client.engine.user import User
from callstate_client.errors import (
    InvalidParamsError,
    OverloadedError,
    ShuttingDownError,
    StoreUnavailableError,
    TooLargeError,
)
from callstate_sidecar.config.schema import LimitsConfig, StoreConfig
from support.core import TIME, Core
from support.core_harness import CoreHarness
from support.stores import down, refusing
from support.verbs import refused


async def test_the_size_of_a_session_is_limited() -> None:
    core = Core(limits=LimitsConfig(session_bytes=2000))
    await core.save("a", session={"history": [{"content": "x" * 1000, "timestamp": TIME}]})
    big = {"content": "x" * 1000}
    await refused(TooLargeError, core, "session.add_turn", session_id="a", turn=big)
    bigger = {"content": "x" * 2000}
    await refused(TooLargeError, core, "session.amend_turn", session_id="a", set=bigger)
    await refused(TooLargeError, core, "session.update", session_id="a", set={"recovery_data": big})
    await refused(TooLargeError, core, "session.save", session={"id": "a", "recovery_data": big})
    await refused(TooLargeError, core, "session.save", session={"id": "b", "history": [big, big]})
    await core.turn("a")
    await core.call("session.amend_turn", session_id="a", index=0, set={"content": "x" * 1400})
    await refused(TooLargeError, core, "session.add_turn", session_id="a", turn=big)
    await core.call("session.amend_turn", session_id="a", index=0, set={"content": "x" * 1399})


async def test_the_size_of_a_head_is_limited_and_one_that_is_too_long_may_become_shorter() -> None:
    core = Core(limits=LimitsConfig(head_bytes=2000))
    await refused(TooLargeError, core, "session.save", session={"id": "a", "recovery_data": {"x": "x" * 2000}})
    await core.save("a", session={"recovery_data": {"x": "x" * 1500}})
    await refused(TooLargeError, core, "session.update", session_id="a", set={"recovery_data": {"y": "y" * 500}})
    await core.turn("a")
    core.engine.ctx.limits = LimitsConfig(head_bytes=1024)
    await core.call("session.update", session_id="a", set={"status": "held"})
    await core.call("session.update", session_id="a", set={"recovery_data": {"x": "x" * 1400}})
    await refused(TooLargeError, core, "session.update", session_id="a", set={"recovery_data": {"x": "x" * 1500}})


async def test_unknown_members_of_metrics_count_as_a_part_of_the_head_and_of_the_session() -> None:
    core = Core(limits=LimitsConfig(head_bytes=2000))
    await core.save("a", session={"metrics": {"x": "x" * 1000}})
    assert core.table.hot.total > SESSION_BYTES + 1000
    await refused(TooLargeError, core, "session.update", session_id="a", set={"metrics": {"y": "y" * 1000}})
    await refused(TooLargeError, core, "session.save", session={"id": "a", "metrics": {"y": "y" * 2000}})
    core.engine.ctx.limits = LimitsConfig(session_bytes=1500)
    await refused(TooLargeError, core, "session.add_turn", session_id="a", turn={"content": "x" * 200})


async def test_a_session_without_room_for_a_turn_is_reported_once(tmp_path: Path) -> None:
    harness = CoreHarness(tmp_path, limits=LimitsConfig(session_bytes=2000))
    worker = await harness.worker("w1")
    await harness.save(worker, "a")
    await harness.request(worker, "session.add_turn", session_id="a", turn={"content": "x" * 1000})
    harness.new_events()
    for again in range(2):
        for _ in range(3):
            await harness.refused(worker, "session.add_turn", session_id="a", turn={"content": "x" * 1000})
        assert [event["type"] for event in harness.new_events()] == ["session.full"]
        await harness.add_turn(worker, "a")
        await harness.request(
            worker, "session.amend_turn", session_id="a", index=0, set={"content": "x" * (990 - again)}
        )
    await harness.close()


async def begun_anew(core: Core, session_id: str, version: int) -> None:
    """Begin another call under the id of one that has ended."""
    await core.save(session_id, if_version=version)


async def test_a_new_call_under_an_ended_ones_id_needs_room_as_any_other() -> None:
    """It takes the place of the ended one if that is in memory."""
    core = Core(limits=LimitsConfig(sessions=2))
    for name in ("hot", "stored"):
        await core.save(name)
        await core.call("session.end", session_id=name)
    hot, stored = (core.session(name).version for name in ("hot", "stored"))
    await core.writer.write_round()
    core.ctx.evict(core.session("stored"))
    core.tx.commit()
    ended = core.session("hot")
    await core.save("b")

    async def is_refused(kind: type[OverloadedError | ShuttingDownError], name: str, version: int) -> None:
        await refused(kind, core, "session.save", session={"id": name, "status": "active"}, if_version=version)
        assert core.table.sessions.get("hot") is ended
        assert ended.ended
        assert "stored" not in core.table.sessions

    await is_refused(OverloadedError, "stored", stored)  # limits.sessions
    core.ctx.draining = True
    await is_refused(ShuttingDownError, "hot", hot)
    await is_refused(ShuttingDownError, "stored", stored)
    await core.save("hot", if_version=hot, session={"status": "ended"})  # late, and no new call
    hot = ended.version
    core.ctx.draining = False
    core.ctx.user_sessions = lambda _: 2
    await begun_anew(core, "hot", hot)
    await core.call("session.end", session_id="hot")
    core.caller = Caller(1001)
    core.ctx.user_sessions = lambda _: 0
    await is_refused(OverloadedError, "hot", ended.version)
    core.ctx.user_sessions = None
    await begun_anew(core, "hot", ended.version)
    await core.call("session.delete", session_id="b")
    await begun_anew(core, "stored", stored)


class Caller(InternalCaller):
    """A connection of a user."""

    def __init__(self, uid: int) -> None:
        self.user = User(uid)


async def test_the_number_of_sessions_is_limited() -> None:
    core = Core(limits=LimitsConfig(sessions=2))
    await core.save("a")
    await core.save("b")
    error = await refused(OverloadedError, core, "session.save", session={"id": "c"})
    assert error.to_wire()["data"]["retryable"] is True
    await core.turn("a")
    await core.call("session.delete", session_id="a")
    await core.save("c")


async def test_with_the_store_down_for_long_live_calls_continue_and_new_ones_are_refused() -> None:
    core = Core(store=StoreConfig(max_dirty_bytes=64 * 1024))
    await core.save("a", session={"x": "y" * 70_000})
    await core.save("b")  # the store is up and will be written to
    core.memory.failure = refusing
    await core.writer.write_round()
    await refused(OverloadedError, core, "session.save", session={"id": "c"})
    await core.turn("a")
    await core.call("session.heartbeat", session_id="b")
    await core.call("session.end", session_id="b")
    core.memory.failure = None
    await core.writer.write_round()
    await core.save("c")


async def test_what_is_being_written_to_a_store_that_takes_nothing_counts_as_well() -> None:
    core = Core(store=StoreConfig(max_dirty_bytes=64 * 1024))
    await core.save("a", session={"x": "y" * 70_000})
    core.memory.failure = refusing
    await core.writer.write_round()
    core.memory.hold()
    again = asyncio.ensure_future(core.writer.write_round())
    await core.memory.called.wait()
    await refused(OverloadedError, core, "session.save", session={"id": "c"})
    core.memory.let_go()
    await again
    await refused(OverloadedError, core, "session.save", session={"id": "c"})


async def test_with_the_store_down_a_save_is_accepted_unverified(core: Core) -> None:
    core.memory.failure = down
    await refused(StoreUnavailableError, core, "session.save", session={"id": "a"}, if_version=7)
    await refused(StoreUnavailableError, core, "session.save", session={"id": "a"}, epoch=3)
    assert (await core.save("a"))["unverified"] is True
    assert (await core.save("c", if_version=0))["unverified"] is True
    assert (await core.save("c"))["unverified"] is True, "nor is a later version of it"
    assert core.session("a").unverified
    assert core.replayed().sessions["a"].unverified
    await core.call("session.delete", session_id="a")
    assert "a" in core.table.tombstones.pending, "the store may have one"
    core.memory.failure = None
    await core.save("b")
    await core.writer.write_round()
    assert not core.table.tombstones.pending
    assert not core.session("b").unverified
    assert "unverified" not in await core.save("b")
    assert not core.replayed().sessions["b"].unverified


async def test_a_heartbeat_timeout_is_at_most_a_day() -> None:
    core = Core()
    await core.save("a", heartbeat_timeout_s=86_400)
    await refused(InvalidParamsError, core, "session.save", session={"id": "a"}, heartbeat_timeout_s=86_401)
