"""Whether a loop is seen to turn: a real loop, and a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from callstate_client.calls.heartbeats.loop_watchdog import MAX_INTERVAL_S, LoopWatchdog

STALL_S = 0.04


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


class Seen:
    """What a watchdog reports, and what it takes for the time."""

    def __init__(self, stall_s: float = STALL_S) -> None:
        self.hand = Hand()
        self.turns = 0
        self.turned = asyncio.Event()
        self.watchdog = LoopWatchdog(asyncio.get_running_loop(), stall_s, self.turn, self.hand)

    def turn(self) -> None:
        self.turns += 1
        self.turned.set()

    async def next_turn(self) -> None:
        self.turned.clear()
        await self.turned.wait()


async def test_a_loop_that_does_not_turn_is_stalled_and_one_that_turns_again_is_not() -> None:
    seen = Seen()
    seen.watchdog.start()
    seen.hand.at_s += STALL_S / 2
    assert not seen.watchdog.stalled
    seen.hand.at_s += STALL_S
    assert seen.watchdog.stalled
    await seen.next_turn()
    assert not seen.watchdog.stalled
    await seen.next_turn()
    seen.watchdog.stop()


@pytest.mark.parametrize(("stall_s", "interval_s"), [(20.0, MAX_INTERVAL_S), (2.0, 0.5), (0.4, 0.1)])
async def test_it_shows_itself_several_times_within_a_stall(stall_s: float, interval_s: float) -> None:
    assert Seen(stall_s).watchdog._interval_s == interval_s


async def test_started_twice_it_beats_once() -> None:
    seen = Seen()
    seen.watchdog.start()
    seen.watchdog.start()
    assert seen.turns == 1
    seen.watchdog.stop()
    seen.watchdog.stop()


async def test_stopped_it_shows_nothing_and_started_again_it_has_just_turned() -> None:
    seen, other = Seen(), Seen()
    seen.watchdog.start()
    seen.watchdog.stop()
    other.watchdog.start()  # of the same interval and begun later, so due behind the one that was stopped
    await other.next_turn()
    other.watchdog.stop()
    assert seen.turns == 1
    seen.hand.at_s += 1000
    assert seen.watchdog.stalled, "nobody looked"
    seen.watchdog.start()
    assert not seen.watchdog.stalled
    seen.watchdog.stop()
