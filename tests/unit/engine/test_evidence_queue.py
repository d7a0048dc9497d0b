"""Lanes of queues: each of a bounded length, and all of them together in one order."""

from __future__ import annotations

from callstate_client.engine.evidence_queue import QUEUE_MOST, Lane
from callstate_client.engine.phases import Phase


def filled(count: int) -> Lane[int]:
    """A lane of so many."""
    lane: Lane[int] = Lane(Phase.ENDED, 300.0)
    for number in range(count):
        lane.with_room().order[number] = float(number)
    return lane


def test_a_queue_that_is_full_is_followed_by_another() -> None:
    lane = filled(2 * QUEUE_MOST + 1)
    assert [len(queue.order) for queue in lane.queues] == [QUEUE_MOST, QUEUE_MOST, 1]
    assert all(queue.lane is lane and queue.phase is Phase.ENDED for queue in lane.queues)


def test_room_is_used_before_there_is_another_queue() -> None:
    lane = filled(2 * QUEUE_MOST)
    lane.remove(5, lane.queues[0])
    assert lane.with_room() is lane.queues[0]
    lane.queues[0].order[5] = 1e9
    assert lane.with_room() is lane.queues[2]
    lane.queues[2].order[-1] = 1e9
    lane.remove(6, lane.queues[0])
    assert lane.with_room() is lane.queues[2], (
        "the newest first: it mostly has room, and the others are not looked at"
    )


def test_a_queue_goes_with_its_last_session() -> None:
    lane = filled(QUEUE_MOST + 1)
    lane.remove(QUEUE_MOST, lane.queues[1])
    assert len(lane.queues) == 1
    for number in range(QUEUE_MOST):
        lane.remove(number, lane.queues[0])
    assert not lane.queues


def test_the_order_is_that_of_the_last_evidence_in_whichever_queue_it_is() -> None:
    lane = filled(QUEUE_MOST + 2)
    lane.remove(0, lane.queues[0])
    lane.queues[0].order[0] = float(QUEUE_MOST + 9)  # in the first queue, behind all of the second
    assert [*lane.in_order()] == [*range(1, QUEUE_MOST + 2), 0]
