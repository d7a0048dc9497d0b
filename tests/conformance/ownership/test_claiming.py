"""How a call changes hands, whatever is behind the store."""

from __future__ import annotations

import asyncio

import pytest

from callstate_client import (
    CallStore,
    ConflictError,
    ForbiddenError,
    InvalidParamsError,
    SessionEndedError,
    SessionNotFoundError,
    Turn,
)
from support.owners import Target, a_call, claim, claim_next, event, fenced, held, interrupted, register, release

# -- claiming ---------------------------------------------------------------------------------------------


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


async def test_ended_missing_and_live_sessions_can_not_be_claimed(w1: CallStore, operator: CallStore) -> None:
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


# -- releasing --------------------------------------------------------------------------------------------


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


async def test_an_ended_session_is_not_released(w1: CallStore) -> None:
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


# -- the next one -----------------------------------------------------------------------------------------


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


async def test_claim_next_takes_the_longest_suspected_first(target: Target, w1: CallStore, w2: CallStore) -> None:
    early = await target.make_worker("early")
    await w1.save(a_call("a"))
    await early.save(a_call("b"))
    await target.kill(early)
    await target.pass_time(target.grace_s / 10)
    await target.kill(w1)
    assert [await claim_next(w2, "w2") for _ in range(3)] == ["b", "a", None]


async def test_claim_next_takes_suspects_without_an_owner(
    target: Target, w1: CallStore, operator: CallStore
) -> None:
    events = await target.watch("suspect")
    await operator.save(a_call("a"))
    assert await claim_next(w1, "w1") is None
    await target.pass_time(target.timeout_s)
    assert (await event(events)).session_id == "a"
    assert await claim_next(w1, "w1") == "a"
    assert await held(operator, "a") == ("w1", 1)


async def test_a_call_that_kills_its_claimers_is_ended(target: Target, operator: CallStore) -> None:
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


async def test_a_claim_returns_the_requested_history(w1: CallStore, w2: CallStore) -> None:
    await w1.save(a_call(history=[Turn("user", str(n)) for n in range(3)], recovery_data={"node": "menu"}))
    await release(w1, "c1", 0)
    with pytest.raises(InvalidParamsError):
        await claim_next(w2, "w2", history="some")
    claimed = await claim(w2, "c1", "w2", history="none")
    assert (claimed.turn_count, b'"history":' in bytes(claimed.session)) == (3, False)
    assert (await w2.load("c1")).recovery_data == {"node": "menu"}
