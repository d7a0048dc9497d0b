"""Registering, draining and the events of ownership, whatever is behind the store."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

import pytest

from callstate_client import CallStore, ConflictError, ForbiddenError, ShuttingDownError
from support.owners import Target, a_call, claim, claim_next, drain, event, fenced, held, register, release

# -- registering and draining -----------------------------------------------------------------------------


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


# -- events -----------------------------------------------------------------------------------------------


async def test_the_life_of_a_call_is_reported_by_events(target: Target, w1: CallStore) -> None:
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


async def test_turn_events_are_sent_to_their_subscribers_and_not_kept(target: Target, w1: CallStore) -> None:
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
