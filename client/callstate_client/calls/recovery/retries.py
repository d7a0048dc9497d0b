"""Calls that a recoverer claims repeatedly: how long each is held back, and when it is left to other workers.

A call comes back when its handler raised, or when a worker that had claimed it died. It is claimed at once, with
heartbeats, so that no other worker takes it meanwhile, but handed out only after a pause that doubles each time.
"""

from __future__ import annotations

import heapq
import logging
from collections import OrderedDict
from time import monotonic
from typing import Final, Generic, Protocol, TypeVar

from callstate_client.errors import CallstateError
from callstate_client.transport.backoff import Delays

__all__ = ["CONCURRENCY", "MAX_ATTEMPTS", "Retries"]

_log = logging.getLogger("callstate")

CONCURRENCY: Final = 100
"""Handlers that run at once: of thousands of lost calls a worker claims only as many as it can serve."""

MAX_ATTEMPTS: Final = 5
"""Consecutive failed claims of one call after which it is left to other workers: with the pauses between them a
quarter of a minute, enough for a dependency to restart, and as long as any caller stays on the line."""

HOLD_BACK: Final = Delays(1.0, 30.0)
"""How long a call that comes back is held before it is handed out, seconds. Less than a minute, so that the daemon
still counts the claim as one in a row."""

SHORT_S: Final = 60.0
"""A claim that lasted at least this long, seconds, did not fail; the daemon counts likewise."""

REMEMBERED: Final = 10_000
"""How many calls' attempts are remembered: as many as a worker hands out within the longest pause."""


class Recovered(Protocol):
    """A recovered call, of either front."""

    handovers: int

    @property
    def id(self) -> str:
        """The session's id."""
        ...

    @property
    def lost(self) -> CallstateError | None:
        """Why it is no longer held; None while it is."""
        ...

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        ...


CallT = TypeVar("CallT", bound=Recovered)


class Retries(Generic[CallT]):
    """The calls of one run of `recover()`.

    Args:
        watch: the run continues for ever. One that does not hands out no call twice.
    """

    def __init__(self, *, watch: bool) -> None:
        self._watch = watch
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count; last one
        self._abandoned: OrderedDict[str, None] = OrderedDict()
        self._held_back: list[tuple[float, int, CallT]] = []
        self._order = 0

    def hold_back(self, call: CallT) -> bool:
        """Count an attempt; True if the call failed lately, here or elsewhere, and is kept until it is due."""
        now = monotonic()
        before, at = self._attempts.pop(call.id, (0, now))
        if self._watch and now - at > SHORT_S:
            before = 0
        failures = max(before, call.handovers - 1)  # one handover is no failure: a worker may have been restarted
        held_back = failures > 0 if self._watch else before > 0
        pause_s = HOLD_BACK.after_s(failures) if held_back else 0.0
        self._attempts[call.id] = (before + 1, now + pause_s)
        if len(self._attempts) > REMEMBERED:
            self._attempts.popitem(last=False)
        if held_back:
            self._order += 1
            heapq.heappush(self._held_back, (now + pause_s, self._order, call))
        return held_back

    def due_in_s(self) -> float | None:
        """In how many seconds the next call is due; None if none is held back."""
        if not self._held_back:
            return None
        return max(0.0, self._held_back[0][0] - monotonic())

    def take(self) -> CallT:
        """Remove and return the call that is due first."""
        return heapq.heappop(self._held_back)[2]

    def __len__(self) -> int:
        return len(self._held_back)

    # -- giving up ------------------------------------------------------------------------------------------

    def abandon_if_hopeless(self, call: CallT, error: Exception, max_attempts: int | None) -> None:
        """Leave a call to other workers, if its handler has failed too often.

        Args:
            call: still held.
            error: with which the handler failed this time.
            max_attempts: claims in a row, here or by other workers, after which it is left; None: never.
        """
        here = self._attempts[call.id][0] if call.id in self._attempts else 1
        attempts = max(call.handovers + 1, here)
        if max_attempts is not None and attempts >= max_attempts and not (call.lost or call.ended):
            self.abandon(call.id)
            _log.error(
                "%s is left to other workers: %d attempts in a row failed, with %r", call.id, attempts, error
            )

    def abandon(self, session_id: str) -> None:
        """Leave this call to other workers from now on."""
        self._abandoned[session_id] = None
        if len(self._abandoned) > REMEMBERED:
            self._abandoned.popitem(last=False)

    def is_abandoned(self, session_id: str) -> bool:
        """Whether it was abandoned."""
        return session_id in self._abandoned

    @property
    def has_abandoned(self) -> bool:
        """Whether any call was abandoned."""
        return bool(self._abandoned)

    def forget(self, session_id: str) -> None:
        """The call has ended: remember nothing of it."""
        self._abandoned.pop(session_id, None)
