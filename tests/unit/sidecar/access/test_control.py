"""What tests/integration/test_access.py does not show of it: time, bounds, requests that wait."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from callstate_client.engine.interfaces import InSteps, InternalCaller
from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.validation.values import LONG_BYTES
from callstate_client.engine.user import NOBODY, User
from callstate_client.engine.verbs.table import VERBS
from callstate_client.errors import ForbiddenError, InvalidParamsError
from callstate_sidecar.access.control import MAX_USERS, REPEATED_S, AccessControl
from callstate_sidecar.access.policy import Policy, Share
from support.core import Core, FakeClient
from support.stores import down


class Caller(InternalCaller):
    """A connection of a user."""

    def __init__(self, uid: int, worker: str = "") -> None:
        self.user = User(uid, uid, frozenset({uid}))
        self.worker = worker


def guarded(share: Share = "uid") -> tuple[Core, AccessControl]:
    """A core with access control, and that."""
    core = Core()
    access = AccessControl(Policy(share=share), core.clock.mono)
    core.engine.control(access)
    return core, access


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if getattr(record, "event", "") == event]


async def test_a_refusal_is_logged_again_after_a_minute_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    core, _ = guarded()
    core.caller = Caller(1001)

    async def refused(times: int) -> None:
        for _ in range(times):
            with pytest.raises(ForbiddenError):
                await core.call("server.drain", on=True)

    await refused(3)
    core.clock.advance(REPEATED_S - 1)
    await refused(1)
    assert len(logged(caplog, "access_refused")) == 1
    core.clock.advance(2)
    await refused(1)
    first, second = logged(caplog, "access_refused")
    assert first == "uid 1001, gid 1001 may not server.drain: that is for operators"
    assert second == f"{first} (3 more were refused since the last line)"


async def test_users_beyond_number_take_no_memory() -> None:
    _, access = guarded()
    access.apply(Policy(allow=Policy().operators))
    for uid in range(1, 3 * MAX_USERS):
        assert access.refusal_to_connect(User(uid)) is not None
    assert len(access._refused) == MAX_USERS


async def test_what_waits_for_the_store_is_refused_once_it_is_known() -> None:
    core, _ = guarded()
    core.memory.put("a", b'{"id":"a","status":"active"}', StoredMeta(host="other", version=5, uid=1001, gid=1001))
    core.caller = Caller(1002)
    for method, params in (("session.load", {}), ("session.add_turn", {"turn": {"role": "user", "content": ""}})):
        with pytest.raises(ForbiddenError):
            await core.call(method, session_id="a", **params)
    with pytest.raises(ForbiddenError):
        await core.save("a", if_version=0)
    core.caller = Caller(1001)
    await core.call("session.load", session_id="a")


LONG = "x" * (2 * LONG_BYTES)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("session.load", {"history": 1}),
        ("session.add_turn", {"turn": {"role": "user", "content": LONG}}),
        ("session.add_turn", {"turns": [{"role": "user", "content": LONG}] * 2}),
        ("session.amend_turn", {"set": {"content": LONG}}),
        ("session.amend_turn", {"set": {"content": "x"}, "role": "user"}),
        ("session.update", {"set": {"recovery_data": {"x": LONG}}}),
        ("session.save", {"session": {"id": "a", "recovery_data": {"x": LONG}}}),
    ],
)
async def test_what_is_worked_on_in_steps_stays_its_users(method: str, params: dict[str, Any]) -> None:
    """In between, the id may have become that of another user's call."""
    core, _ = guarded()
    turns = [{"role": "user", "content": LONG}] * 3
    caller = core.caller = Caller(1001)
    await core.save("a", session={"history": turns})
    verb = VERBS[method]
    given = params if "session" in params else params | {"session_id": "a"}
    begun = core.engine.run(caller, verb, verb.params(Raw(msgspec.json.encode(given))))
    assert isinstance(begun, InSteps)
    await core.call("session.delete", session_id="a")
    core.caller = Caller(1002)
    await core.save("a", session={"history": turns})
    version = core.session("a").version
    with pytest.raises(ForbiddenError):
        begun.finish()
    assert core.session("a").version == version


async def test_a_document_that_cannot_be_read_is_its_creators_too() -> None:
    core, _ = guarded()
    core.memory.put("a", b"not a session", StoredMeta(host="other", version=5, uid=1001, gid=1001))
    core.caller = Caller(1002)
    with pytest.raises(ForbiddenError):
        await core.call("session.load", session_id="a")
    with pytest.raises(ForbiddenError):
        await core.call("session.delete", session_id="a")


async def test_an_operator_that_holds_a_call_is_noted_once(caplog: pytest.LogCaptureFixture) -> None:
    core, _ = guarded()
    caplog.set_level(logging.INFO)
    core.caller = Caller(1001)
    await core.save("a")
    core.caller = Caller(0, "w")
    await core.call("session.claim", session_id="a", worker_id="w")
    for _ in range(3):
        await core.turn("a")
        await core.call("session.heartbeat", session_id="a")
    assert logged(caplog, "operator_action") == ["operator action by uid 0, gid 0, worker w: session.claim a"]


async def test_a_listing_that_begins_with_a_cursor_is_noted_too(caplog: pytest.LogCaptureFixture) -> None:
    """One that an operator has made up, or has kept from another connection."""
    core, _ = guarded()
    caplog.set_level(logging.INFO)
    core.caller = Caller(1001)
    for name in "abc":
        await core.save(name)
    core.caller = FakeClient(core, user=User(0)).connection
    with pytest.raises(InvalidParamsError):
        await core.call("session.list", cursor="none")
    assert not logged(caplog, "operator_action")
    page = await core.call("session.list", cursor="stream-1@0", limit=1)
    assert len(logged(caplog, "operator_action")) == 1
    await core.call("session.list", cursor=page["next_cursor"], limit=1)
    assert len(logged(caplog, "operator_action")) == 1
    core.caller = FakeClient(core, user=User(0)).connection
    await core.call("session.list_active", cursor=page["next_cursor"])
    assert len(logged(caplog, "operator_action")) == 2


async def test_a_flush_of_everything_and_a_repair_are_noted_where_nothing_is_restricted_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    core = Core()
    core.ctx.access = AccessControl(Policy(own_uid=1000), core.clock.mono)
    caplog.set_level(logging.INFO)
    core.caller = Caller(1001)
    for method, params in (
        ("server.flush", {"timeout_s": 1}),
        ("server.flush", {"timeout_s": 1, "session_ids": ["a"]}),
        ("server.check", {"repair": True}),
        ("server.check", {}),
    ):
        await core.call(method, **params)
    who = "operator action by uid 1001, gid 1001"
    assert logged(caplog, "operator_action") == [f"{who}: server.flush", f"{who}: server.check"]


async def test_an_operators_action_that_failed_is_not_noted(caplog: pytest.LogCaptureFixture) -> None:
    core, _ = guarded()
    caplog.set_level(logging.INFO)
    core.caller = Caller(1001)
    await core.save("a", op="op-1")
    core.caller = Caller(0)
    with pytest.raises(Exception, match="version"):
        await core.call("session.update", session_id="a", set={"status": "on_hold"}, if_version=1)
    assert logged(caplog, "operator_action") == []


async def test_a_session_of_nobody_known_is_everybodys_until_it_is_claimed() -> None:
    core, _ = guarded()
    core.memory.put("a", b'{"id":"a","status":"active"}', StoredMeta(host="host-1", version=5))
    core.caller = Caller(1001)
    await core.turn("a")
    core.caller = Caller(1002)
    await core.call("session.claim", session_id="a", worker_id="w")
    core.caller = Caller(1001)
    with pytest.raises(ForbiddenError):
        await core.turn("a")


async def test_claim_next_passes_over_many_of_others() -> None:
    core, access = guarded()
    for number in range(350):
        core.caller = Caller(1001 if number < 349 else 1002)
        await core.save(f"s{number}", labels={"app": "x"})
        await core.call("session.claim", session_id=f"s{number}", worker_id="w")
        await core.call("session.release", session_id=f"s{number}", epoch=1)
    core.caller = Caller(1002)
    for labels in ({"app": "x"}, {}):
        assert (await core.call("session.claim_next", worker_id="v", labels=labels))["session"]["id"] == "s349"
        await core.call("session.release", session_id="s349", epoch=core.session("s349").facts.epoch)
    access.apply(Policy())
    core.engine.control(access)
    assert (await core.call("session.claim_next", worker_id="v"))["session"]["id"] == "s0"


async def test_an_unknown_user_is_told_apart_from_every_known_one() -> None:
    core, _ = guarded()
    nobody = InternalCaller()
    assert nobody.user == NOBODY
    core.caller = nobody
    with pytest.raises(ForbiddenError) as caught:
        await core.save("a")
    assert caught.value.who == "uid unknown, gid unknown"
    assert caught.value.what == "session.save a"


async def test_a_save_during_an_outage_gets_nothing_of_another_users_call() -> None:
    """The call goes on here; the store keeps what it has, and says so."""
    core, _ = guarded()
    document = b'{"id":"a","status":"ended","history":[{"role":"user","content":"a secret"}]}'
    core.memory.put("a", document, StoredMeta(host="host-1", version=5, state="ended", uid=1001, gid=1001))
    core.memory.failure = down
    core.caller = Caller(1002)
    assert (await core.save("a"))["unverified"] is True
    core.memory.failure = None
    for _ in range(3):
        await core.writer.write_round()
    assert (await core.call("session.load", session_id="a"))["session"]["history"] == []
    assert core.memory.rows["a"].document == document
    assert core.session("a").quarantined
