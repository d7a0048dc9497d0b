"""Who holds a call, how that is known, and how it changes hands, whatever is behind the store."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET, Raw

from callstate_client import (
    CallStore,
    ConflictError,
    FencedError,
    ForbiddenError,
    InvalidParamsError,
    SessionEndedError,
    SessionNotFoundError,
    ShuttingDownError,
    Turn,
)
from callstate_client import protocol as p
from callstate_client.protocol import HeartbeatResult
from callstate_client.protocol.events import Event
from support.owners import (
    Events,
    Target,
    a_call,
    amended,
    beats,
    claim,
    claim_next,
    drain,
    interrupted,
    register,
    release,
)
from support.remote import forker
from support.targets import TARGETS, Daemons, TargetResources


@pytest.fixture(scope="module")
def resources() -> Iterator[Callable[[], TargetResources]]:
    """What the daemon's target needs, made when it is first asked for."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def make() -> TargetResources:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cs-")))
            daemons = stack.enter_context(contextlib.closing(Daemons()))
            return TargetResources(daemons, stack.enter_context(forker(directory)))

        yield make


@pytest.fixture(params=TARGETS)
async def target(request: pytest.FixtureRequest, resources: Callable[[], TargetResources]) -> AsyncIterator[Target]:
    async with TARGETS[request.param](resources) as target:
        yield target


@pytest.fixture
async def w1(target: Target) -> CallStore:
    return await target.make_worker("w1")


@pytest.fixture
async def w2(target: Target) -> CallStore:
    return await target.make_worker("w2")


@pytest.fixture
async def operator(target: Target) -> CallStore:
    return await target.make_worker(None)


async def event(events: Events) -> Event:
    async with asyncio.timeout(10):
        return await anext(events)  # type: ignore[call-overload, no-any-return]


async def held(store: CallStore, session_id: str = "c1") -> tuple[str | None, int]:
    record = await store.get(session_id)
    return record.owner, record.epoch


async def fenced(ask: Awaitable[object]) -> tuple[int | None, str | None]:
    with pytest.raises(FencedError) as caught:
        await ask
    return caught.value.epoch, caught.value.owner


def beaten(**lists: list[str]) -> HeartbeatResult:
    return HeartbeatResult(**({"missing": [], "ended": [], "fenced": []} | lists))


# -- owning ------------------------------------------------------------------------------------------------


async def test_a_worker_owns_what_it_creates_and_nobody_what_an_operator_does(
    w1: CallStore, operator: CallStore
) -> None:
    await w1.save(a_call("mine"))
    await operator.save(a_call("nobodys"))
    assert await held(operator, "mine") == ("w1", 0)
    assert await held(operator, "nobodys") == (None, 0)
    assert [record.state.id async for record in operator.sessions(owner="w1")] == ["mine"]


async def test_another_worker_is_fenced(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call(history=[Turn("user", "x")]))
    for ask in (
        w2.update_heartbeat("c1"),
        w2.save(a_call()),
        w2.add_turn("c1", "user", "x"),
        w2.amend_last_turn("c1", content="y"),
        w2.record_interruption("c1"),
        w2.update("c1", status="on_hold"),
        w2.end("c1"),
        w2.delete("c1"),
        interrupted(w2, "c1", epoch=0),
    ):
        assert await fenced(ask) == (0, "w1")
    record = await w1.get("c1")
    assert (record.state.status, record.turn_count, record.state.metrics.interruption_count) == ("active", 1, 0)


async def test_beats_of_many_say_which_are_anothers(w1: CallStore, w2: CallStore, operator: CallStore) -> None:
    await w1.save(a_call("mine"))
    await w2.save(a_call("theirs"))
    await operator.save(a_call("nobodys"))
    await w1.save(a_call("over", status="ended"))
    result = await beats(w1, "mine", "theirs", "nobodys", "gone", "over")
    assert result == beaten(fenced=["theirs"], missing=["gone"], ended=["over"])


async def test_a_session_without_owner_is_everybodys_and_stays_so(w1: CallStore, operator: CallStore) -> None:
    await operator.save(a_call())
    await w1.update_heartbeat("c1")
    await w1.add_turn("c1", "user", "x")
    assert await held(w1) == (None, 0)


async def test_an_operator_changes_everything(w1: CallStore, operator: CallStore) -> None:
    await w1.save(a_call())
    await operator.update("c1", status="on_hold")
    assert await held(w1) == ("w1", 0)
    await interrupted(operator, "c1", epoch=0)
    assert await fenced(interrupted(operator, "c1", epoch=1)) == (0, "w1")
    await operator.end("c1", "operator")
    assert (await w1.get("c1")).ended_reason == "operator"


async def test_an_operators_changes_are_life_only_with_the_epoch(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    events = await target.watch("suspect", "recovered")
    for session_id in ("with", "without"):
        await w1.save(a_call(session_id))
    await target.pass_time(target.timeout_s / 2)
    await interrupted(operator, "with", epoch=0)
    await interrupted(operator, "without")
    await target.pass_time(target.timeout_s * 0.75)
    suspect = await event(events)
    assert (suspect.type, suspect.session_id) == ("suspect", "without")
    await interrupted(operator, "without")
    await w1.update_heartbeat("with")
    await target.pass_time(target.timeout_s * 0.1)
    await interrupted(operator, "without", epoch=0)
    recovered = await event(events)
    assert (recovered.type, recovered.session_id) == ("recovered", "without")


async def test_an_operators_beat_is_taken_and_counts_while_the_owner_is_away(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    events = await target.watch("worker.left", "recovered")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    await operator.update_heartbeat("c1")
    assert await beats(operator, "c1") == beaten()
    await target.kill(w1)
    assert (await event(events)).type == "worker.left"  # not recovered: its owner was here to beat itself
    await operator.update_heartbeat("c1")
    assert (await event(events)).type == "recovered"


async def test_a_timeout_that_an_operator_gives_is_no_sign_of_life(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    events = await target.watch("suspect", "recovered", "expired")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    assert (await event(events)).type == "suspect"
    await operator.save(a_call(), heartbeat_timeout_s=target.timeout_s / 2)
    await target.pass_time(target.grace_s)
    assert (await event(events)).type == "expired"


async def test_beats_are_all_that_one_has_who_never_connects(target: Target, operator: CallStore) -> None:
    events = await target.watch("suspect", "recovered")
    await operator.save(a_call())
    await claim(operator, "c1", "script")
    await target.pass_time(target.timeout_s * 1.25)
    assert (await event(events)).owner == "script"
    assert await beats(operator, "c1") == beaten()
    assert (await event(events)).type == "recovered"


async def test_what_a_worker_ended_takes_late_words_from_it_alone(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1")
    await w1.add_turn("c1", "user", "bye")
    await fenced(w2.add_turn("c1", "user", "bye"))
    with pytest.raises(SessionEndedError):
        await w1.update_heartbeat("c1")
    await w1.save(a_call())
    assert await held(w2) == ("w1", 0)


async def test_a_new_session_of_an_old_id_is_its_creators(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call())
    first = (await claim(w2, "c1", "w2", steal=True)).epoch
    await w2.delete("c1")
    await w1.save(a_call())
    assert await held(w1) == ("w1", first)


async def test_whoever_held_an_old_session_stays_out_of_the_new_one_of_its_id(
    target: Target, w1: CallStore, w2: CallStore
) -> None:
    await w1.save(a_call())
    await claim(w2, "c1", "w2", steal=True)
    await w2.delete("c1")
    await target.pass_time(target.timeout_s * 1.25)
    await w2.save(a_call())
    assert await held(w2) == ("w2", 1)
    assert await fenced(interrupted(w1, "c1", epoch=0)) == (1, "w2")


MUTATIONS: dict[str, p.Params] = {
    "session.save": p.SaveParams(session=Raw(b'{"id":"c1"}'), epoch=1),
    "session.add_turn": p.AddTurnParams(session_id="c1", turn=Raw(b'{"content":"late"}'), epoch=1),
    "session.amend_turn": p.AmendTurnParams(session_id="c1", set=Raw(b'{"content":"late"}'), epoch=1),
    "session.record_interruption": p.RecordInterruptionParams(session_id="c1", epoch=1),
    "session.update": p.UpdateParams(session_id="c1", set=Raw(b'{"to":"+1"}'), epoch=1),
    "session.end": p.EndParams(session_id="c1", epoch=1),
    "session.release": p.ReleaseParams(session_id="c1", epoch=1),
    "session.delete": p.DeleteParams(session_id="c1", epoch=1),
}
"""All that changes a session, with the epoch of the first claim."""


async def test_an_epoch_fences_off_who_is_no_worker_too(target: Target, operator: CallStore) -> None:
    """As a blocking program that claimed the call, hung, and goes on."""
    await operator.save(a_call(history=[Turn("user", "x")]))
    assert (await claim(operator, "c1", "a")).epoch == 1
    assert (await claim(operator, "c1", "b", steal=True)).epoch == 2
    before = await operator.get("c1")
    for method, params in MUTATIONS.items():
        with pytest.raises(FencedError) as caught:
            p.decode_empty(await operator.request(method, params))
        assert (caught.value.epoch, caught.value.owner) == (2, "b")
    assert await operator.get("c1") == before


async def test_who_revives_by_a_save_what_has_no_owner_owns_it(
    w1: CallStore, w2: CallStore, operator: CallStore
) -> None:
    await operator.save(a_call("nobodys", status="ended"))
    await w1.save(a_call("nobodys"))
    assert await held(w2, "nobodys") == ("w1", 1)
    await w1.save(a_call("given-up"))
    await release(w1, "given-up", 0)
    await operator.end("given-up")
    await w2.save(a_call("given-up"))
    assert await held(w2, "given-up") == ("w2", 1)  # no epoch has two owners


@pytest.mark.parametrize("how", ["ended", "reaped"])
@pytest.mark.parametrize("who", ["another", "the same", "an operator"])
async def test_an_id_is_used_again_by_who_knows_that_its_call_is_over(
    target: Target, w1: CallStore, w2: CallStore, operator: CallStore, how: str, who: str
) -> None:
    await w1.save(a_call(history=[Turn("user", "x")]), max_duration_s=None if how == "ended" else 0.001)
    if how == "ended":
        await w1.end("c1", "caller_hangup")
    else:
        await target.pass_time(0.1)
    store = {"another": w2, "the same": w1, "an operator": operator}[who]
    with pytest.raises(ConflictError) as caught:
        await store.save(a_call(), if_version=0)
    there = caught.value.data
    reason = "caller_hangup" if how == "ended" else "max_duration"
    assert (there["status"], there["reason"]) == ("ended", reason)
    assert "ended_at" in there
    await store.save(a_call(to="+2"), if_version=there["version"])
    record = await operator.get("c1")
    owner = {"another": "w2", "the same": "w1", "an operator": None}[who]
    assert (record.owner, record.epoch, record.ended_reason) == (owner, 1, None)
    assert (record.state.status, [*record.state.history]) == ("active", [])
    assert await fenced(interrupted(w1, "c1", epoch=0)) == (1, owner)  # a late turn of the call before


async def test_a_conflict_says_how_the_call_stands_to_who_wanted_to_create_it(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call(status="on_hold"))
    with pytest.raises(ConflictError) as caught:
        await w2.save(a_call(), if_version=0)
    assert caught.value.data["status"] == "on_hold"
    assert "ended_at" not in caught.value.data
    with pytest.raises(ConflictError) as caught:
        await w1.save(a_call(), if_version=7)
    assert "status" not in caught.value.data


async def test_an_update_revives_nothing(w1: CallStore, operator: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1", "caller_hangup")
    before = await operator.get("c1")
    for store in (w1, operator):
        with pytest.raises(SessionEndedError) as caught:
            await store.update("c1", status="active")
        assert caught.value.reason == "caller_hangup"
    assert await operator.get("c1") == before
    await w1.update("c1", status="ended", to="+1")
    assert (await operator.get("c1")).ended_reason == "caller_hangup"


# -- claiming ----------------------------------------------------------------------------------------------


async def test_a_live_call_is_its_owners_until_stolen(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("claimed", "fenced")
    await w1.save(a_call(history=[Turn("user", "x"), Turn("agent", "y")]))
    before = (await w1.get("c1")).version
    with pytest.raises(ConflictError) as caught:
        await claim(w2, "c1", "w2")
    assert caught.value.owner == "w1"
    stolen = await claim(w2, "c1", "w2", steal=True, history=1)
    assert (stolen.owner, stolen.epoch, stolen.turn_count, stolen.history_from) == ("w2", 1, 2, 1)
    assert stolen.version > before
    for _ in range(2):
        assert await fenced(w1.update_heartbeat("c1")) == (1, "w2")
    assert await fenced(interrupted(w1, "c1", epoch=0)) == (1, "w2")
    told = [await event(events), await event(events)]
    assert [(each.type, each.owner, each.epoch, each.reason) for each in told] == [
        ("claimed", "w2", 1, "stolen"),
        ("fenced", "w2", 1, None),
    ]
    again = await claim(w1, "c1", "w1", steal=True)
    assert told[1].worker_id == "w1"
    assert (again.owner, again.epoch) == ("w1", 2)
    assert (await event(events)).type == "claimed"  # the second and third refusal were told by the first


async def test_a_repeated_claim_is_the_same_claim(target: Target, w1: CallStore, operator: CallStore) -> None:
    events = await target.watch("claimed")
    await operator.save(a_call())
    first, second = await claim(w1, "c1", "w1"), await claim(w1, "c1", "w1")
    assert (first.epoch, first.version) == (second.epoch, second.version)
    await operator.save(a_call("c2"))
    await claim(w1, "c2", "w1")
    assert [((one := await event(events)).session_id, one.reason) for _ in range(2)] == [
        ("c1", "unowned"),
        ("c2", "unowned"),
    ]


async def test_what_can_not_be_claimed(w1: CallStore, operator: CallStore) -> None:
    await w1.save(a_call())
    with pytest.raises(SessionNotFoundError):
        await claim(w1, "gone", "w1")
    with pytest.raises(ForbiddenError):
        await claim(w1, "c1", "w2")
    with pytest.raises(ForbiddenError):
        await claim_next(w1, "w2")
    await w1.end("c1", "hangup")
    for store, worker_id in ((w1, "w1"), (operator, "w3")):
        with pytest.raises(SessionEndedError) as caught:
            await claim(store, "c1", worker_id, steal=True)
        assert caught.value.reason == "hangup"


@pytest.mark.parametrize("bad", ["", "a b", "w" * 65, "ü", "a\n"])
async def test_bad_worker_ids(operator: CallStore, bad: str) -> None:
    await operator.save(a_call())
    for ask in (claim(operator, "c1", bad), claim_next(operator, bad), register(operator, bad)):
        with pytest.raises(InvalidParamsError) as caught:
            await ask
        assert caught.value.path == "$.params.worker_id"


async def test_of_two_claims_one_is_taken(target: Target, operator: CallStore) -> None:
    await operator.save(a_call())
    workers = [await target.make_worker(f"w{n}") for n in range(5)]
    claims = [claim(worker, "c1", f"w{n}") for n, worker in enumerate(workers)]
    outcomes = await asyncio.gather(*claims, return_exceptions=True)
    assert sum(isinstance(each, ConflictError) for each in outcomes) == 4


async def test_of_thieves_at_once_each_has_an_epoch_and_the_last_one_the_call(
    target: Target, operator: CallStore
) -> None:
    await operator.save(a_call())
    workers = [await target.make_worker(f"w{n}") for n in range(3)]
    claims = [claim(worker, "c1", f"w{n}", steal=True) for n, worker in enumerate(workers)]
    epochs = {done.owner: done.epoch for done in await asyncio.gather(*claims)}
    assert sorted(epochs.values()) == [1, 2, 3]
    owner, epoch = await held(operator)
    assert (epochs[owner], epoch) == (3, 3)


# -- releasing ---------------------------------------------------------------------------------------------


async def test_a_released_call_goes_to_the_next(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("released", "claimed")
    await w1.save(a_call())
    assert await fenced(release(w1, "c1", 7)) == (0, "w1")
    assert await fenced(release(w2, "c1", 0)) == (0, "w1")
    await release(w1, "c1", 0)
    await release(w1, "c1", 0)
    assert await held(w2) == (None, 0)
    assert await claim_next(w2, "w2") == "c1"
    assert await held(w2) == ("w2", 1)
    assert await fenced(release(w1, "c1", 0)) == (1, "w2")
    told = [await event(events), await event(events)]
    assert [(each.type, each.reason, each.owner) for each in told] == [
        ("released", "released", "w1"),
        ("claimed", "released", "w2"),
    ]


async def test_what_has_ended_is_not_released(w1: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1")
    with pytest.raises(SessionEndedError):
        await release(w1, "c1", 0)


async def test_a_released_call_has_a_full_timeout(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("suspect", "expired")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 0.75)
    await release(w1, "c1", 0)
    await w1.save(a_call("c2"))
    await target.pass_time(target.timeout_s * 0.75)
    assert await w2.list_active() == ["c1", "c2"]
    await w1.update_heartbeat("c2")
    await target.pass_time(target.timeout_s * 0.5)
    suspect = await event(events)
    assert (suspect.session_id, suspect.reason) == ("c1", "heartbeat_timeout")


# -- the next one ------------------------------------------------------------------------------------------


async def test_claim_next_takes_orphans_oldest_first_then_suspects(
    target: Target, w1: CallStore, w2: CallStore, operator: CallStore
) -> None:
    dying = await target.make_worker("dying")
    await dying.save(a_call("suspect"))
    await operator.save(a_call("never-owned"))
    for session_id in ("a", "b", "kept"):
        await w1.save(a_call(session_id))
    await target.kill(dying)
    await release(w1, "b", 0)
    await target.pass_time(target.timeout_s / 10)
    await release(w1, "a", 0)
    assert [await claim_next(w2, "w2") for _ in range(4)] == ["b", "a", "suspect", None]


async def test_claim_next_takes_first_who_was_suspected_first(target: Target, w1: CallStore, w2: CallStore) -> None:
    early = await target.make_worker("early")
    await w1.save(a_call("a"))
    await early.save(a_call("b"))
    await target.kill(early)
    await target.pass_time(target.grace_s / 10)
    await target.kill(w1)
    assert [await claim_next(w2, "w2") for _ in range(3)] == ["b", "a", None]


async def test_claim_next_takes_suspects_that_nobody_owns(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    events = await target.watch("suspect")
    await operator.save(a_call("a"))
    assert await claim_next(w1, "w1") is None
    await target.pass_time(target.timeout_s)
    assert (await event(events)).session_id == "a"
    assert await claim_next(w1, "w1") == "a"
    assert await held(operator, "a") == ("w1", 1)


async def test_a_call_that_kills_who_claims_it_is_ended(target: Target, operator: CallStore) -> None:
    events = await target.watch("expired")
    await (await target.make_worker("w0")).save(a_call(), labels={"app": "sales"})
    for number in range(3):
        assert (await operator.get("c1")).handovers == number
        worker = await target.make_worker(f"v{number}")
        assert (await claim(worker, "c1", f"v{number}", steal=True)).handovers == number
        await target.kill(worker)
    told = await event(events)
    assert (told.session_id, told.reason, told.labels) == ("c1", "poisoned", {"app": "sales"})
    assert (await operator.get("c1")).ended_reason == "poisoned"
    assert await claim_next(operator, "w9") is None
    assert (await claim(operator, "c1", "w9")).epoch == 4


async def test_a_call_that_is_given_up_again_and_again_says_how_often(w1: CallStore) -> None:
    await w1.save(a_call())
    await release(w1, "c1", 0)
    for number in range(5):
        claimed = await claim(w1, "c1", "w1")
        assert claimed.handovers == number
        await release(w1, "c1", claimed.epoch)
    assert (await w1.get("c1")).ended_reason is None


async def test_claim_next_by_labels(w1: CallStore, w2: CallStore) -> None:
    for session_id, labels in (("a", {"app": "sales"}), ("b", {"app": "support", "lang": "de"}), ("c", {})):
        await w1.save(a_call(session_id), labels=labels)
        await release(w1, session_id, 0)
    assert await claim_next(w2, "w2", labels={"app": "support"}) == "b"
    assert await claim_next(w2, "w2", labels={"app": "support"}) is None
    assert await claim_next(w2, "w2", labels={"app": "x"}) is None
    assert [await claim_next(w2, "w2", labels={}) for _ in range(3)] == ["a", "c", None]


async def test_two_recovering_workers_never_get_the_same_call(target: Target, w1: CallStore) -> None:
    for n in range(20):
        await w1.save(a_call(f"c{n}"))
    await target.kill(w1)
    workers = {f"r{n}": await target.make_worker(f"r{n}") for n in range(2)}

    async def recover(worker_id: str) -> list[str]:
        mine: list[str] = []
        while (found := await claim_next(workers[worker_id], worker_id)) is not None:
            mine.append(found)
        return mine

    one, other = await asyncio.gather(*map(recover, workers))
    assert sorted(one + other) == sorted(f"c{n}" for n in range(20))


async def test_the_history_asked_for_comes_with_the_claim(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call(history=[Turn("user", str(n)) for n in range(3)], recovery_data={"node": "menu"}))
    await release(w1, "c1", 0)
    with pytest.raises(InvalidParamsError):
        await claim_next(w2, "w2", history="some")
    claimed = await claim(w2, "c1", "w2", history="none")
    assert (claimed.turn_count, b'"history":' in bytes(claimed.session)) == (3, False)
    assert (await w2.load("c1")).recovery_data == {"node": "menu"}


# -- the end of a worker -----------------------------------------------------------------------------------


async def test_a_killed_workers_calls_are_suspects_at_once(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("worker.left", "suspect", "claimed")
    await w1.save(a_call())
    await target.kill(w1)
    left, suspect = await event(events), await event(events)
    assert (left.type, left.worker_id, left.reason) == ("worker.left", "w1", "exited")
    assert (suspect.type, suspect.reason, suspect.evidence, suspect.owner) == (
        "suspect", "worker_exited", "process_exited", "w1",
    )  # fmt: skip
    assert suspect.deadline is not None
    assert (suspect.deadline - suspect.at).total_seconds() == pytest.approx(target.grace_s)
    assert (await claim(w2, "c1", "w2")).epoch == 1
    assert (await event(events)).reason == "worker_exited"


async def test_an_end_of_another_epoch_is_fenced_also_where_the_call_has_ended(
    target: Target, w1: CallStore, w2: CallStore
) -> None:
    await w1.save(a_call())
    await claim(w2, "c1", "w2", steal=True)
    version = await w2.end("c1", "transferred")
    for store in (w1, w2):
        with pytest.raises(FencedError) as stale:
            p.decode_version(await store.request("session.end", p.EndParams(session_id="c1", epoch=0)))
        assert (stale.value.epoch, stale.value.owner) == (1, "w2")
        repeat = p.EndParams(session_id="c1", reason="late", epoch=1)
        assert p.decode_version(await store.request("session.end", repeat)).version == version
    assert (await w2.get("c1")).ended_reason == "transferred"


async def test_an_id_in_the_way_says_how_it_stands(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    with pytest.raises(ConflictError) as live:
        await w1.save(a_call(), if_version=0)
    assert (live.value.status, live.value.ended_at, live.value.reason) == ("active", None, None)
    await w1.end("c1", "caller_hangup")
    with pytest.raises(ConflictError, match=r"caller_hangup.*replace_ended=True") as ended:
        async with w1.hold(a_call()):
            pytest.fail("it is there already")
    assert (ended.value.status, ended.value.reason) == ("ended", "caller_hangup")
    assert ended.value.ended_at
    assert ended.value.version == (await w1.get("c1")).version


async def test_an_ended_call_is_replaced_whole(target: Target, w1: CallStore, w2: CallStore) -> None:
    before = a_call(recovery_data={"node": "menu"}, call_id="CA1")
    before.add_turn("user", "of the call before", 100)
    before.record_interruption()
    await w1.save(before, labels={"app": "sales"})
    await w1.end("c1", "caller_hangup", {"cause": 16})
    old = await w1.get("c1")
    assert old.ended_detail == {"cause": 16}
    async with w2.hold(a_call(call_id="CA2", status="pending"), replace_ended=True) as call:
        await call.add_turn("agent", "hello", 50)
        record = await w2.get("c1")
        assert [turn.content for turn in record.state.history] == ["hello"]
        assert (record.state.metrics.turn_count, record.state.metrics.interruption_count) == (1, 0)
        assert (record.state.status, record.state.call_id, record.state.recovery_data) == ("pending", "CA2", None)
        assert (record.labels, record.ended_reason, record.ended_detail) == ({}, None, None)
        assert (record.epoch, record.owner) == (old.epoch + 1, "w2")
        assert record.version > old.version
    with pytest.raises(ConflictError):
        async with w1.hold(a_call()):
            pytest.fail("it has ended, and nobody said that it may be replaced")


async def test_of_two_who_replace_an_ended_call_one_gets_it(target: Target, w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1", "caller_hangup")
    holds = [store.hold(a_call(), replace_ended=True) for store in (w1, w2)]
    entered = await asyncio.gather(*(hold.__aenter__() for hold in holds), return_exceptions=True)
    lost = [result for result in entered if isinstance(result, BaseException)]
    assert [type(each) for each in lost] == [ConflictError], entered
    for hold, result in zip(holds, entered, strict=True):
        if not isinstance(result, BaseException):
            await hold.__aexit__(None, None, None)


async def test_a_live_call_is_not_replaced(target: Target, w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call())
    with pytest.raises(ConflictError, match="held by worker w1"):
        async with w2.hold(a_call(), replace_ended=True):
            pytest.fail("it is w1's")
    with pytest.raises(ValueError, match="replace_ended"):
        w2.hold("c1", replace_ended=True)


async def test_a_hold_that_resumes_creates_what_is_not_there(target: Target, w1: CallStore) -> None:
    async with w1.hold(a_call(provider="telnyx"), labels={"app": "sales"}, resume=True) as call:
        record = await w1.get("c1")
        assert (record.owner, record.epoch, record.labels) == ("w1", 0, {"app": "sales"})
        assert call.state.provider == "telnyx"
    assert (await w1.get("c1")).ended_reason == "completed"


async def test_a_hold_that_resumes_claims_what_is_there(target: Target, w1: CallStore, w2: CallStore) -> None:
    async with w1.hold(a_call(provider="telnyx"), labels={"app": "sales"}) as first:
        await first.add_turn("user", "hello", 90)
        with pytest.raises(ConflictError):
            async with w2.hold(a_call(), resume=True):
                pytest.fail("it is w1's, which is alive")
        await first.release()
    async with w2.hold(a_call(provider="sip"), labels={"app": "other"}, resume=True) as call:
        assert (call.state.provider, [turn.content for turn in call.state.history]) == ("telnyx", ["hello"])
        record = await w2.get("c1")
        assert (record.owner, record.epoch, record.labels) == ("w2", 1, {"app": "sales"})
        await call.add_turn("agent", "again", 10)
        await call.release()
    async with w1.hold(a_call(), resume=True, steal=True) as stolen:
        assert len(stolen.state.history) == 2
        await stolen.end("transferred")
    assert (await w1.get("c1")).ended_reason == "transferred"


async def test_a_hold_that_resumes_takes_no_call_that_is_over(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1", "caller_hangup")
    with pytest.raises(SessionEndedError) as ended:
        async with w1.hold(a_call(), resume=True):
            pytest.fail("it is over")
    assert ended.value.reason == "caller_hangup"
    async with w1.hold(a_call(provider="sip"), resume=True, replace_ended=True) as call:
        assert call.state.provider == "sip"
        assert (await w1.get("c1")).ended_reason is None


async def test_what_can_not_be_held(target: Target, w1: CallStore) -> None:
    with pytest.raises(ValueError, match="resume"):
        w1.hold("c1", resume=True)
    with pytest.raises(TypeError, match="int"):
        w1.hold(5)  # type: ignore[arg-type]


async def test_sessions_are_listed_by_their_state(target: Target, w1: CallStore) -> None:
    async def found(state: str) -> list[str]:
        return [record.state.id async for record in w1.sessions(state=state)]

    await w1.save(a_call())
    await w1.save(a_call("c2"))
    await w1.save(a_call("c3", status="ended"))
    await release(w1, "c2", (await w1.get("c2")).epoch)
    listed = {state: await found(state) for state in ("live", "orphan", "suspect", "restored")}
    assert listed == {"live": ["c1"], "orphan": ["c2"], "suspect": [], "restored": []}
    with pytest.raises(InvalidParamsError, match="live, suspect, orphan, restored"):
        await found("ended")


async def test_the_active_sessions_of_every_host(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    await w1.save(a_call("c2", status="ended"))
    assert await w1.list_active(scope="all") == await w1.list_active() == ["c1"]
    with pytest.raises(InvalidParamsError):
        await w1.list_active("nowhere")


async def test_a_worker_that_starts_again_claims_its_own_calls_anew(target: Target, w1: CallStore) -> None:
    await w1.save(a_call("a"))
    await w1.save(a_call("b"))
    await target.kill(w1)
    again = await target.make_worker("w1")
    assert (await claim(again, "a", "w1")).epoch == 1
    assert await claim_next(again, "w1") == "b"


async def test_calls_of_a_dead_worker_that_nobody_claims_are_reaped(target: Target, w1: CallStore) -> None:
    events = await target.watch("expired")
    other = await target.make_worker("other")
    await w1.save(a_call())
    await target.kill(w1)
    await target.pass_time(target.grace_s * 1.25)
    expired = await event(events)
    assert (expired.session_id, expired.reason, expired.owner) == ("c1", "worker_exited", "w1")
    assert (await other.get("c1")).ended_reason == "worker_exited"
    assert await claim_next(other, "other") is None


async def test_a_worker_that_lost_its_connection_may_come_back(target: Target, w1: CallStore) -> None:
    events = await target.watch("worker.left", "orphaned", "worker.joined")
    await w1.save(a_call())
    await w1.close()
    await target.pass_time(target.reconnect_grace_s / 2)
    again = await target.make_worker("w1")
    await target.pass_time(target.reconnect_grace_s * 1.25)
    await again.add_turn("c1", "user", "x")
    assert await held(again) == ("w1", 0)
    await target.make_worker("w3")
    joined = await event(events)
    assert (joined.type, joined.worker_id) == ("worker.joined", "w3")


async def test_the_calls_of_one_that_does_not_are_orphans(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("worker.left", "orphaned", "claimed")
    await w1.save(a_call())
    await w1.close()
    await target.pass_time(target.reconnect_grace_s * 1.25)
    left, orphaned = await event(events), await event(events)
    assert (left.type, left.worker_id, left.reason) == ("worker.left", "w1", "disconnected")
    assert (orphaned.type, orphaned.reason, orphaned.owner) == ("orphaned", "disconnected", "w1")
    assert await held(w2) == (None, 0)
    assert (await w2.stats())["orphans"] == 1
    assert await claim_next(w2, "w2") == "c1"
    assert (await w2.stats())["orphans"] == 0
    assert (await event(events)).reason == "disconnected"
    late = await target.make_worker("w1")
    assert await fenced(late.update_heartbeat("c1")) == (1, "w2")


async def test_one_that_is_late_finds_what_nobody_claimed_to_be_everybodys(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    await w1.close()
    await target.pass_time(target.reconnect_grace_s * 1.25)
    late = await target.make_worker("w1")
    await interrupted(late, "c1", epoch=0)
    assert await held(late) == (None, 0)
    assert (await claim(late, "c1", "w1")).epoch == 1


async def test_one_that_dies_while_it_is_away_has_died(target: Target, w1: CallStore) -> None:
    events = await target.watch("worker.left", "orphaned", "suspect")
    await w1.save(a_call())
    await w1.close()
    await target.kill(w1)
    left, suspect = await event(events), await event(events)
    assert (left.type, left.reason) == ("worker.left", "exited")
    assert (suspect.type, suspect.reason, suspect.owner) == ("suspect", "worker_exited", "w1")
    again = await target.make_worker("w1")
    assert (await claim(again, "c1", "w1")).epoch == 1


async def test_a_worker_is_there_while_it_has_a_connection(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("worker.left", "orphaned")
    second = await target.make_worker("w1")
    await w1.save(a_call(), heartbeat_timeout_s=target.timeout_s * 2)
    await w1.close()
    await target.pass_time(target.reconnect_grace_s * 1.25)
    assert await held(second) == ("w1", 0)
    with pytest.raises(ConflictError):
        await claim(w2, "c1", "w2")
    await second.close()
    await target.pass_time(target.reconnect_grace_s * 1.25)
    assert [(await event(events)).type for _ in range(2)] == ["worker.left", "orphaned"]


async def test_ended_calls_of_a_worker_that_left_stay_ended(target: Target, w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call())
    await w1.end("c1", "hangup")
    await target.kill(w1)
    record = await w2.get("c1")
    assert (record.owner, record.ended_reason) == ("w1", "hangup")


# -- silence -----------------------------------------------------------------------------------------------


async def test_a_silent_worker_comes_back_in_its_own_epoch(target: Target, w1: CallStore) -> None:
    events = await target.watch("suspect", "recovered", "claimed")
    await w1.save(a_call("a"))
    await w1.save(a_call("b"))
    await target.pass_time(target.timeout_s * 1.25)
    suspects = [await event(events), await event(events)]
    assert {(each.session_id, each.reason, each.evidence) for each in suspects} == {
        ("a", "heartbeat_timeout", "silence"),
        ("b", "heartbeat_timeout", "silence"),
    }
    assert await claim_next(w1, "w1") == "a"  # the reply to its claim may have been lost
    assert (await claim(w1, "a", "w1")).epoch == (await claim(w1, "b", "w1")).epoch == 0
    assert [((one := await event(events)).type, one.session_id) for _ in range(2)] == [
        ("recovered", "a"),
        ("recovered", "b"),
    ]


async def test_a_silent_worker_that_then_dies_leaves_its_calls_to_its_successor(
    target: Target, w1: CallStore
) -> None:
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    await target.kill(w1)
    again = await target.make_worker("w1")
    assert await claim_next(again, "w1") == "c1"
    assert await held(again) == ("w1", 1)
    await again.update_heartbeat("c1")


async def test_a_silent_call_whose_worker_then_dies_ends_when_it_would_have_and_for_that(
    target: Target, w1: CallStore
) -> None:
    events = await target.watch("suspect", "expired")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    await target.kill(w1)
    await target.pass_time(target.grace_s)
    silent, dead = await event(events), await event(events)
    assert (silent.type, silent.reason) == ("suspect", "heartbeat_timeout")
    assert (dead.type, dead.reason) == ("suspect", "worker_exited")
    moved = abs((dead.deadline - silent.deadline).total_seconds())
    assert moved < target.timeout_s / 20, "reckoned anew by the wall clock, and the same"
    expired = await event(events)
    assert (expired.type, expired.reason) == ("expired", "worker_exited")


async def test_a_deletion_is_the_one_end_of_a_suspect(target: Target, w1: CallStore) -> None:
    events = await target.watch("deleted", "expired", "ended")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    await w1.delete("c1")
    await target.pass_time(target.grace_s)
    await w1.save(a_call("c2", status="ended"))
    told = [await event(events), await event(events)]
    assert [(each.session_id, each.type) for each in told] == [("c1", "deleted"), ("c2", "ended")]


async def test_a_worker_thought_dead_can_not_overwrite_its_successor(
    target: Target, w1: CallStore, w2: CallStore
) -> None:
    events = await target.watch("claimed")
    await w1.save(a_call())
    await target.pass_time(target.timeout_s * 1.25)
    assert await claim_next(w2, "w2") == "c1"
    assert (await event(events)).reason == "heartbeat_timeout"
    await w2.update("c1", recovery_data={"by": "w2"})
    await fenced(w1.save(a_call(recovery_data={"by": "w1"})))
    await fenced(w1.end("c1"))
    assert (await w2.load("c1")).recovery_data == {"by": "w2"}


async def test_a_reaped_call_is_revived_by_a_claim_alone(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("expired", "claimed")
    await w1.save(a_call(status="on_hold"))
    await w1.save(a_call("wordless", status=""))
    await target.pass_time(target.timeout_s + target.grace_s * 1.25)
    assert [(await event(events)).reason for _ in range(2)] == ["heartbeat_timeout"] * 2
    for late in (w1.update_heartbeat("c1"), w1.save(a_call()), w1.add_turn("c1", "user", "x")):
        with pytest.raises(SessionEndedError):
            await late
    claimed = await claim(w2, "c1", "w2")
    assert (claimed.owner, claimed.epoch, claimed.ended_reason) == ("w2", 1, None)
    assert (await w2.load("c1")).status == "on_hold"
    assert (await event(events)).reason == "reaped"
    await w2.update_heartbeat("c1")
    await fenced(w1.update_heartbeat("c1"))
    await claim(w2, "wordless", "w2")
    assert (await w2.load("wordless")).status == ""


async def test_a_call_over_time_that_is_claimed_goes_on(target: Target, w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call(created_at=target.now()), max_duration_s=target.timeout_s / 2)
    await target.pass_time(target.timeout_s * 0.75)
    assert (await w1.get("c1")).ended_reason == "max_duration"
    await claim(w2, "c1", "w2")
    await target.pass_time(target.timeout_s / 2)
    await w2.update_heartbeat("c1")


# -- registering and draining ------------------------------------------------------------------------------


async def test_a_connection_is_one_workers(operator: CallStore) -> None:
    assert (await register(operator, "w9")).worker_id == "w9"
    await register(operator, "w9")
    with pytest.raises(ForbiddenError):
        await register(operator, "w8")
    await operator.save(a_call())
    assert await held(operator) == ("w9", 0)


async def test_a_second_process_under_one_id_is_a_conflict(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    with pytest.raises(ConflictError) as caught:
        await register(operator, "w1")
    assert caught.value.owner == "w1"
    await target.kill(w1)
    await register(operator, "w1")


async def test_while_it_drains_it_takes_no_new_calls(target: Target, w1: CallStore, operator: CallStore) -> None:
    events = await target.watch("server.drain")
    await w1.save(a_call("a"))
    await w1.save(a_call("b"))
    await w1.end("b")
    assert await drain(operator, True) == await drain(operator, True)
    with pytest.raises(ShuttingDownError):
        await w1.save(a_call("c"))
    await w1.save(a_call("a", status="on_hold"))
    await release(w1, "a", 0)
    assert await claim_next(w1, "w1") == "a"
    await w1.end("a")
    assert (await register(w1, "w1")).drain
    result = await drain(operator, False)
    assert (result.drain, result.sessions) == (False, 0)
    await w1.save(a_call("c"))
    assert [(await event(events)).drain for _ in range(2)] == [True, False]


# -- events ------------------------------------------------------------------------------------------------


async def test_the_life_of_a_call_is_told(target: Target, w1: CallStore) -> None:
    events = await target.watch()
    await w1.save(a_call(call_id="CA1"), labels={"app": "sales"})
    await w1.add_turn("c1", "user", "x")  # turns are told to those who ask for them
    await w1.end("c1", "hangup")
    await w1.save(a_call())
    await w1.delete("c1")
    told = [await event(events) for _ in range(4)]
    assert [(each.type, each.reason) for each in told] == [
        ("created", None),
        ("ended", "hangup"),
        ("recovered", "revived"),
        ("deleted", "deleted"),
    ]
    created = told[0]
    assert (created.session_id, created.provider, created.call_id) == ("c1", "sip", "CA1")
    assert (created.labels, created.owner, created.epoch) == ({"app": "sales"}, "w1", 0)
    seqs = [each.cursor.seq for each in told]
    assert seqs == [*range(seqs[0], seqs[0] + 4)]
    behind = await target.watch("deleted", "ended", since=created.cursor)
    assert [(await event(behind)).cursor.seq for _ in range(2)] == [seqs[1], seqs[3]]


async def test_turns_are_told_to_who_asks_and_not_kept(target: Target, w1: CallStore) -> None:
    events = await target.watch("turn", "ended")
    await w1.save(a_call())
    await w1.add_turn("c1", "user", "x")
    await w1.add_turn("c1", "agent", "y")
    await w1.end("c1")
    told = [await event(events) for _ in range(3)]
    assert [(each.type, each.turn_count) for each in told] == [("turn", 1), ("turn", 2), ("ended", None)]
    behind = await target.watch("turn", "ended", since=told[0].cursor)
    assert (await event(behind)).type == "ended"


async def test_a_mutation_is_for_the_epoch_that_it_gives(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    await w1.save(a_call())
    epoch = (await claim(operator, "c1", "w1", steal=True)).epoch
    for store in (w1, operator):
        given: list[Callable[..., Awaitable[object]]] = [
            functools.partial(store.add_turn, "c1", "user", "hello"),
            functools.partial(store.amend_last_turn, "c1", content="hi"),
            functools.partial(store.amend_turn, "c1", 0, content="hey"),
            functools.partial(store.record_interruption, "c1"),
            functools.partial(store.update, "c1", status="on_hold"),
            functools.partial(store.update, "c1", labels={"a": "b"}),
            functools.partial(store.save, a_call()),
        ]
        for mutation in given:
            await fenced(mutation(epoch=epoch + 1))
            await mutation(epoch=epoch)
    await fenced(operator.end("c1", epoch=epoch + 1))
    await operator.end("c1", epoch=epoch)
    await fenced(operator.delete("c1", epoch=epoch + 1))
    await operator.delete("c1", epoch=epoch)


# -- timeouts ----------------------------------------------------------------------------------------------


async def test_a_claim_says_which_timeouts_are_in_force(target: Target, operator: CallStore, w1: CallStore) -> None:
    await operator.save(a_call())
    claimed = await claim(w1, "c1", "w1")
    assert (claimed.heartbeat_timeout_s, claimed.max_duration_s) == (target.timeout_s, None)
    again = await claim(w1, "c1", "w1", heartbeat_timeout_s=60.0, max_duration_s=300000000.0)
    assert (again.heartbeat_timeout_s, again.max_duration_s, again.epoch) == (60.0, 300000000.0, claimed.epoch)
    assert again.version > claimed.version
    assert (await claim(w1, "c1", "w1")).version == again.version
    [listed] = [record async for record in operator.sessions()]
    assert (listed.heartbeat_timeout_s, listed.max_duration_s) == (60.0, 300000000.0)


async def test_a_call_is_expected_to_beat_as_its_claim_says(target: Target, w1: CallStore, w2: CallStore) -> None:
    events = await target.watch("suspect")
    await w1.save(a_call())
    await w1.save(a_call("c2"))
    await claim(w2, "c1", "w2", steal=True, heartbeat_timeout_s=3 * target.timeout_s)
    await target.pass_time(1.5 * target.timeout_s)
    await target.pass_time(2 * target.timeout_s)
    assert [(await event(events)).session_id for _ in range(2)] == ["c2", "c1"]


@pytest.mark.parametrize("many", [False, True])
async def test_an_owner_is_told_by_its_beat_which_timeout_somebody_else_gave_its_call(
    target: Target, w1: CallStore, operator: CallStore, many: bool
) -> None:
    """And is not suspected for not beating by it before."""
    which: dict[str, Any] = {"session_ids": ["c1"]} if many else {"session_id": "c1"}
    beat = p.HeartbeatParams(**which)

    async def told() -> Any:
        return p.decode_heartbeat(await w1.request("session.heartbeat", beat)).timeouts

    events = await target.watch("suspect", "recovered", "ended")
    await w1.save(a_call(), heartbeat_timeout_s=4 * target.timeout_s)
    assert await told() is UNSET
    await operator.save(a_call(), heartbeat_timeout_s=target.timeout_s)
    await w1.add_turn("c1", "user", "hello")
    await target.pass_time(1.5 * target.timeout_s)
    assert await told() == {"c1": target.timeout_s}
    assert await told() is UNSET
    await target.pass_time(1.25 * target.timeout_s)
    await w1.end("c1")
    assert [(await event(events)).type for _ in range(2)] == ["suspect", "ended"], "not before it was told"


async def test_who_changes_the_timeout_of_its_own_call_is_not_told_it_again(
    w1: CallStore, operator: CallStore
) -> None:
    beat = p.HeartbeatParams(session_id="c1")
    await w1.save(a_call())
    await w1.save(a_call(), heartbeat_timeout_s=60.0)
    assert p.decode_heartbeat(await w1.request("session.heartbeat", beat)).timeouts is UNSET
    for learn in (w1.save(a_call()), claim(w1, "c1", "w1")):
        await operator.save(a_call(), heartbeat_timeout_s=50.0)
        await learn
        assert p.decode_heartbeat(await w1.request("session.heartbeat", beat)).timeouts is UNSET


# -- amending ----------------------------------------------------------------------------------------------


async def test_the_turn_that_is_meant_is_amended_whoever_spoke_since(target: Target, w1: CallStore) -> None:
    await w1.save(a_call())
    for role, content in (("agent", "Our opening hours are"), ("user", "Wait."), ("user", "Please.")):
        await w1.add_turn("c1", role, content)
    assert await amended(w1, "c1", {"content": "Our opening"}, role="agent") == 0
    assert await amended(w1, "c1", {"content": "Wait!"}, index=1) == 1
    assert await amended(w1, "c1", {"content": "Please!"}) == 2
    assert await amended(w1, "c1", {"interrupted": True}, index=-3, role="agent") == 0
    history = (await w1.load("c1")).history
    assert [turn.content for turn in history] == ["Our opening", "Wait!", "Please!"]
    assert history[0].extra == {"interrupted": True}


@pytest.mark.parametrize("which", [{"index": 1}, {"index": -2}, {"role": "agent"}, {"index": 0, "role": "agent"}])
async def test_there_must_be_the_turn_that_is_meant(target: Target, w1: CallStore, which: dict[str, Any]) -> None:
    await w1.save(a_call())
    with pytest.raises(ConflictError):
        await amended(w1, "c1", {"content": "x"})
    await w1.add_turn("c1", "user", "Hello?")
    before = await w1.get("c1")
    with pytest.raises(ConflictError):
        await amended(w1, "c1", {"content": "x"}, **which)
    assert await w1.get("c1") == before
