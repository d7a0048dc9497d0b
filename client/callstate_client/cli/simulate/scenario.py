"""Realistic calls, as data: who calls when, what is said, how it ends.

Pure and repeatable: the same `Traffic` gives the same scripts. Times inside a call are call time, in seconds;
the player divides them by the speed. Nothing here does I/O or waits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from callstate_client.cli.simulate.phrases import ERRANDS, FILLERS, SLOTS, Errand
from callstate_client.model.state import Direction, Role, Status

SPEECH_S_PER_CHARACTER: Final = 0.06
"""About 16 characters a second: ordinary telephone English."""

HEARTBEAT_INTERVAL_S: Final = 10.0
"""Call time between heartbeats, seconds: a third of the daemon's default heartbeat timeout."""

# Standard deviations of the logarithms of times: people vary in how fast they talk, and far more in how long
# they think.
SPEECH_SIGMA: Final = 0.25
THINK_SIGMA: Final = 0.7

CALLER_THINKS_S: Final = 0.9
AGENT_THINKS_S: Final = 0.6
RINGS_S: Final = 3.0
ON_HOLD_S: Final = 8.0
TRANSFER_S: Final = 2.5

BARGE_IN_RATE: Final = 0.12
"""The share of the agent's turns that the caller interrupts."""

FILLER_RATE: Final = 0.08
HOLD_RATE: Final = 0.03
INBOUND_RATE: Final = 0.7

NOTE_EVERY: Final = 4
"""Turns between two updates of the data with which another worker could resume the call."""

MAX_TURNS: Final = 100_000

PROVIDERS: Final = {"twilio": 5, "telnyx": 3, "sip": 3, "vonage": 1, "livekit": 2}
TRANSFERRED: Final = "transferred"
REASONS: Final = {
    "completed": 60,
    "caller_hangup": 24,
    TRANSFERRED: 7,
    "agent_hangup": 4,
    "network_error": 3,
    "no_input": 2,
}


@dataclass(frozen=True, slots=True)
class Say:
    """A turn.

    Args:
        pause_s: thinking before it.
        role: `user` or `agent`.
        text: what is meant to be said.
        speech_s: how long that takes.
        heard: set on a barge-in: the words that were spoken before the caller cut in.
        heard_s: how long those took.
    """

    pause_s: float
    role: str
    text: str
    speech_s: float
    heard: str | None = None
    heard_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SetStatus:
    """The call is put on hold, resumed, or transferred; that lasts for `lasts_s`."""

    status: str
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Note:
    """The worker saves what another one needs to resume the call."""

    recovery_data: dict[str, Any]


Step = Say | SetStatus | Note


@dataclass(frozen=True, slots=True)
class CallScript:
    """One call from ringing to its end.

    Args:
        number: 0, 1, 2 … in order of arrival.
        arrives_s: seconds after the start of the traffic; not call time, so never divided by a speed.
        rings_s: from arrival to answer.
        reason: why it ends; None when its worker dies instead, after the last of `steps`.
        steps: what happens in between.
    """

    number: int
    arrives_s: float
    call_id: str
    provider: str
    direction: str
    from_: str
    to: str
    errand: str
    rings_s: float
    steps: tuple[Step, ...]
    reason: str | None

    @property
    def turns(self) -> int:
        """How many turns are said."""
        return sum(isinstance(step, Say) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What to generate.

    Args:
        calls: how many, at least 1.
        rate: mean arrivals a second (Poisson), over 0.
        seed: same seed, same calls.
        die: fraction of calls whose worker dies in mid-call, 0 to 1; rounded to whole calls.
        turns: least and most turns of a call, 1 to `MAX_TURNS`.

    Raises:
        ValueError: one of them is out of its range.
    """

    calls: int
    rate: float
    seed: int
    die: float = 0.0
    turns: tuple[int, int] = (6, 16)

    def __post_init__(self) -> None:
        low, high = self.turns
        if self.calls < 1:
            raise ValueError("calls: at least 1")
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise ValueError("rate: over 0 calls a second")
        if not 0 <= self.die <= 1:
            raise ValueError("die: a fraction from 0 to 1")
        if not 1 <= low <= high <= MAX_TURNS:
            raise ValueError(f"turns: A:B with 1 <= A <= B <= {MAX_TURNS}")

    def scripts(self) -> Iterator[CallScript]:
        """The calls in order of arrival, each made when the iteration reaches it."""
        rng = random.Random(f"{self.seed}/traffic")
        dying = frozenset(rng.sample(range(self.calls), round(self.calls * self.die)))
        arrives_s = 0.0
        for number in range(self.calls):
            yield _script(self, number, arrives_s, dies=number in dying)
            arrives_s += rng.expovariate(self.rate)


def _script(traffic: Traffic, number: int, arrives_s: float, *, dies: bool) -> CallScript:
    # a generator of its own for each call, so that one call more or less changes no other
    rng = random.Random(f"{traffic.seed}/call/{number}")
    inbound = rng.random() < INBOUND_RATE
    ours, theirs = "+442079460100", f"+1{rng.randint(201, 989)}55501{rng.randint(0, 99):02d}"
    errand = rng.choice(ERRANDS)
    reason = _weighted(rng, REASONS)
    steps = list(_conversation(rng, errand, rng.randint(*traffic.turns), reason=reason, inbound=inbound))
    if dies:
        steps = steps[: rng.randint(1, len(steps))]
    elif reason == TRANSFERRED:
        steps.append(SetStatus(Status.TRANSFERRING, _around(rng, TRANSFER_S, THINK_SIGMA)))
    return CallScript(
        number=number,
        arrives_s=arrives_s,
        call_id=f"CA{rng.getrandbits(128):032x}",
        provider=_weighted(rng, PROVIDERS),
        direction=Direction.INBOUND if inbound else Direction.OUTBOUND,
        from_=theirs if inbound else ours,
        to=ours if inbound else theirs,
        errand=errand.name,
        rings_s=_around(rng, RINGS_S, SPEECH_SIGMA),
        steps=tuple(steps),
        reason=None if dies else reason,
    )


def _conversation(rng: random.Random, errand: Errand, turns: int, *, reason: str, inbound: bool) -> Iterator[Step]:
    lines = _lines(rng, errand, turns, inbound=inbound, polite=reason == "completed")
    for said, (role, text) in enumerate(lines, start=1):
        if said > 1 and role == Role.AGENT and rng.random() < HOLD_RATE:
            yield SetStatus(Status.ON_HOLD, _around(rng, ON_HOLD_S, THINK_SIGMA))
            yield SetStatus(Status.ACTIVE, 0.0)
        yield _say(rng, role, text)
        if said % NOTE_EVERY == 0:
            yield Note({"errand": errand.name, "after_turn": said, "last_words": text[-24:]})


def _lines(
    rng: random.Random, errand: Errand, turns: int, *, inbound: bool, polite: bool
) -> Iterator[tuple[str, str]]:
    """(role, words), `turns` of them: the agent speaks first, then they alternate."""
    slots = {name: rng.choice(choices) for name, choices in SLOTS.items()}
    # the caller says goodbye first; with an even number of turns the agent has none left to answer
    farewell = errand.farewell[: 2 if turns % 2 else 1] if polite and turns >= 4 else ()
    yield Role.AGENT, (errand.greeting if inbound else errand.outreach).format(**slots)
    left = turns - 1 - len(farewell)
    exchange = 0
    while left > 0:
        caller, agent = errand.exchanges[exchange % len(errand.exchanges)]
        if rng.random() < FILLER_RATE:
            caller = rng.choice(FILLERS)
        wish = rng.choice(("amount", "count", "day", "digits", "time"))  # people change their minds
        slots[wish] = rng.choice(SLOTS[wish])
        yield Role.USER, caller.format(**slots)
        if left > 1:
            yield Role.AGENT, agent.format(**slots)
        left -= 2
        exchange += 1
    for role, text in zip((Role.USER, Role.AGENT), farewell, strict=False):
        yield role, text.format(**slots)


def _say(rng: random.Random, role: str, text: str) -> Say:
    pause_s = _around(rng, CALLER_THINKS_S if role == Role.USER else AGENT_THINKS_S, THINK_SIGMA)
    speech_s = _around(rng, SPEECH_S_PER_CHARACTER * len(text), SPEECH_SIGMA)
    words = text.split()
    if role == Role.USER or len(words) < 4 or rng.random() >= BARGE_IN_RATE:
        return Say(pause_s, role, text, speech_s)
    heard = " ".join(words[: rng.randint(1, len(words) - 1)])
    return Say(pause_s, role, text, speech_s, heard, speech_s * len(heard) / len(text))


def _around(rng: random.Random, median: float, sigma: float) -> float:
    return rng.lognormvariate(math.log(median), sigma)


def _weighted(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
