"""`session.save`: what it creates, replaces and leaves, and which sessions it refuses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.request import BadRequest, read_request
from callstate_client.engine.sessions import head as head_module
from callstate_client.engine.sessions.validation.heads import check_fields
from callstate_client.errors import ConflictError, InvalidParamsError, WireError
from support.clock import START_US
from support.core import TIME, Core, FakeClient, kept
from support.verbs import refused


async def test_a_save_creates_and_replaces(core: Core) -> None:
    saved = await core.save("a", session={"call_id": "CA1", "from": "+1", "x": 1, "history": [{"role": "user"}]})
    beside = {"epoch": 0, "heartbeat_timeout_s": 30.0}
    assert saved == {"version": START_US, "updated_at": TIME} | beside
    core.clock.advance(1.5)
    again = await core.save("a", session={"to": "+2", "history": []})
    assert again == {"version": START_US + 1_500_000, "updated_at": "2026-01-01T00:00:01.500000Z"} | beside
    session = (await core.call("session.load", session_id="a"))["session"]
    assert session == {
        "id": "a", "created_at": TIME, "provider": "twilio", "direction": "", "from": "", "to": "+2",
        "status": "active", "updated_at": "2026-01-01T00:00:01.500000Z", "history": [],
        "metrics": {
            "turn_count": 0, "interruption_count": 0, "user_speech_duration_ms": 0, "agent_speech_duration_ms": 0,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("history", "left"), [(None, 2), ("omit", 2), ("null", 0), ("[]", 0), ("same", 2), ("more", 3), ("less", 1)]
)
async def test_each_form_of_save_changes_the_history_as_specified(
    core: Core, history: str | None, left: int
) -> None:
    turns = [{"role": "user", "content": str(number), "timestamp": TIME} for number in range(3)]
    await core.save("a", session={"history": turns[:2]})
    given = {"null": None, "[]": [], "same": turns[:2], "more": turns, "less": turns[:1]}
    session = {"history": given[history]} if history in given else {}
    await core.save("a", session=session)
    loaded = await core.call("session.load", session_id="a")
    assert loaded["turn_count"] == left
    assert loaded["session"]["history"] == turns[:left]


async def test_a_new_session_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is asked for its id first, and the request run again then: a call that begins waits for both."""
    checked: list[str] = []

    def check(head: Any, path: str) -> None:
        checked.append(head.id)
        check_fields(head, path)

    monkeypatch.setattr(head_module, "check_fields", check)
    peer = FakeClient(Core())
    for times in (1, 2):
        ids = peer.send(("session.save", {"session": {"id": "a", "provider": "twilio"}}))
        while not peer.answered(ids):
            await asyncio.sleep(0)
        assert len(checked) == times
    assert "result" in peer.replies[ids[0]]


async def test_a_save_that_extends_the_history_journals_only_what_is_new(core: Core) -> None:
    turns = [{"role": "user", "content": "x" * 1000, "timestamp": TIME} for _ in range(3)]
    await core.save("a", session={"history": turns[:2]})
    await core.save("a", session={"history": turns})
    await core.save("a", session={"history": turns})
    assert [len(record.turns) // 1000 for record in core.logged] == [2, 1, 0]  # type: ignore[union-attr]


async def test_an_invalid_turn_is_named_by_its_place_in_the_whole_history(core: Core) -> None:
    good = {"role": "user", "timestamp": TIME}
    await core.save("a", session={"history": [good, good]})
    error = await refused(
        InvalidParamsError, core, "session.save", session={"id": "a", "history": [good, good, {"role": 5}]}
    )
    assert error.data["path"] == "$.params.session.history[2].role"


async def test_if_version(core: Core) -> None:
    first = await core.save("a", if_version=0)
    error = await refused(ConflictError, core, "session.save", session={"id": "a"}, if_version=0)
    assert error.data["version"] == first["version"]
    second = await core.save("a", if_version=first["version"])
    await refused(ConflictError, core, "session.save", session={"id": "a"}, if_version=first["version"])
    await refused(ConflictError, core, "session.update", session_id="a", set={"x": 1}, if_version=first["version"])
    await core.call("session.update", session_id="a", set={"x": 1}, if_version=second["version"])
    error = await refused(ConflictError, core, "session.save", session={"id": "b"}, if_version=7)
    assert error.data["version"] == 0


async def test_labels_and_timeouts_stay_when_a_save_omits_them(core: Core) -> None:
    await core.save("a", labels={"app": "x"}, heartbeat_timeout_s=2.0, max_duration_s=60.0)
    await core.save("a")
    facts = core.session("a").facts
    assert (facts.labels, facts.heartbeat_timeout_s, facts.max_duration_s) == (
        {"app": "x"},
        2.0,
        60.0,
    )
    await core.save("a", labels={})
    assert core.session("a").facts.labels == {}


@pytest.mark.parametrize(
    ("beside", "path"),
    [
        ({"labels": {str(n): "" for n in range(17)}}, "$.params.labels"),
        ({"labels": {"": "x"}}, "$.params.labels."),
        ({"labels": {"é" * 33: "x"}}, "$.params.labels." + "é" * 33),
        ({"labels": {"a": "x" * 257}}, "$.params.labels.a"),
        ({"labels": {"a": 5}}, "$.params.labels.a"),
        ({"heartbeat_timeout_s": 0}, "$.params.heartbeat_timeout_s"),
        ({"max_duration_s": -1}, "$.params.max_duration_s"),
        ({"if_version": -1}, "$.params.if_version"),
        ({"op": ""}, "$.params.op"),
        ({"op": "x" * 65}, "$.params.op"),
        ({"if_versoin": 3}, "$.params.if_versoin"),
    ],
)
async def test_invalid_params_are_named(core: Core, beside: dict[str, Any], path: str) -> None:
    error = await refused(InvalidParamsError, core, "session.save", session={"id": "a"}, **beside)
    assert error.data["path"] == path
    assert error.data["expected"]


SAVES = {
    "bare": {"id": "a"},
    "all": {
        "id": "a", "created_at": TIME, "updated_at": TIME, "call_id": "CA", "provider": "sip",
        "direction": "inbound", "from": "1", "to": "2", "status": "", "history": [{"timestamp": TIME}],
        "metrics": {"turn_count": 1, "first_response_ms": 3}, "recovery_data": {"x": [1]},
    },
    "nulls": {"id": "a", "created_at": None, "history": None, "metrics": None, "recovery_data": None},
    "more": {"id": "a", "x": 1},
    "more metrics": {"id": "a", "metrics": {"x": 1}},
    "wide": {"id": "a", "provider": "é" * 32},
    "too wide": {"id": "a", "provider": "é" * 33},
    "long": {"id": "a", "provider": "x" * 65},
    "time": {"id": "a", "updated_at": "2026-01-01"},
    "status": {"id": "a", "status": None},
    "history": {"id": "a", "history": {}},
    "turn": {"id": "a", "history": [{"role": None}]},
    "metrics": {"id": "a", "metrics": {"turn_count": "1"}},
    "big metrics": {"id": "a", "metrics": {"turn_count": 2**63}},
    "recovery": {"id": "a", "recovery_data": [2**64]},
    "no id": {},
    "id": {"id": 5},
}  # fmt: skip


@pytest.mark.parametrize("session", SAVES.values(), ids=SAVES)
async def test_the_fast_decoder_accepts_and_refuses_what_the_general_one_does(session: dict[str, Any]) -> None:
    """A space after the method is enough to leave the short way."""
    text = json.dumps(session, ensure_ascii=True)
    outcomes = []
    for space in ("", " "):
        core = Core()
        core.table.tombstones.remember_miss("a", core.clock.mono())
        line = f'{{"jsonrpc":"2.0","id":1,"method":"session.save",{space}"params":{{"session":{text}}}}}'
        try:
            asked = read_request(line.encode())
            assert asked is not None
            outcomes.append((asked.verb.run(core.ctx, INTERNAL, asked.params), kept(core.session("a"))))
        except BadRequest as bad:
            outcomes.append((bad.request_id, bad.error.to_wire()))  # type: ignore[arg-type]
        except WireError as error:
            outcomes.append((b"1", error.to_wire()))  # type: ignore[arg-type]
    assert outcomes[0] == outcomes[1]
