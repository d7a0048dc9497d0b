"""The request in flight: what is sent, and its repetition until there is an answer that a repeat would not change.

Its first attempt takes no task: it is posted, and the reply calls back. What has to be repeated is delivered by the
sending task; the request outlives that: when it is cancelled, the next one continues with the same request and its
`op`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Protocol

import msgspec

from callstate_client import protocol, requests
from callstate_client.calls.outbox.entry import OutboxEntry
from callstate_client.errors import CallstateError, ConnectionLostError, FencedError, NoDaemonError, WireError
from callstate_client.session_api import SessionApi
from callstate_client.transport.backoff import DELIVER, Backoff

__all__ = ["Answer", "InFlight"]

_log = logging.getLogger("callstate")

_turn_of = attrgetter("turn")

Answer = protocol.VersionResult | Exception
"""What became of an attempt; an exception that is no CallstateError is a fault of this package."""


class Claim(Protocol):
    """What a fencing token is judged by: the claim that the call is held by."""

    @property
    def epoch(self) -> int | None:
        """The session's, as far as this worker knows."""
        ...

    @property
    def is_being_renewed(self) -> bool:
        """Whether the store is claiming calls now: perhaps this one, whose new epoch it then does not know yet."""
        ...


class InFlight:
    """One request. The waiter of its own reply, if it was posted.

    Args:
        store: sends it.
        session_id: of the call.
        batch: the entries that it delivers: turns, or one other.
    """

    __slots__ = (
        "_backoff",
        "_epoch",
        "_first",
        "_on_answer",
        "_params",
        "_pause_s",
        "_reply",
        "_session_id",
        "_store",
        "_unknown",
        "last_error",
    )

    def __init__(self, store: SessionApi, session_id: str, batch: Sequence[OutboxEntry]) -> None:
        self._store = store
        self._session_id = session_id
        self._first = batch[0]
        self._params = self._first.params
        if self._first.is_turn:
            turns = msgspec.Raw(b"[%b]" % b",".join(map(_turn_of, batch)))
            self._params = protocol.AddTurnParams(session_id=session_id, turns=turns, op=store.new_op())
        self._epoch: int | None = None  # of the latest attempt
        self._reply: object = None  # of the present attempt: what waits for it
        self._on_answer: Callable[[Answer], None] | None = None  # if it is posted
        self._unknown = False  # an earlier attempt was sent and not answered
        self._backoff: Backoff | None = None
        self._pause_s = 0.0  # before the next attempt
        self.last_error: CallstateError | None = None
        """Why the last attempt has to be repeated; None if there was none."""

    @property
    def may_be_applied(self) -> bool:
        """Whether the daemon may have applied it although it is not acknowledged."""
        return self._unknown or (self._reply is not None and self._store._may_have_left(self._reply))

    # -- the first attempt ----------------------------------------------------------------------------------

    def post(self, epoch: int | None, on_answer: Callable[[Answer], None]) -> bool:
        """Send it once, without a task.

        Args:
            epoch: the session's.
            on_answer: called once with what became of it, unless it is abandoned before.

        Returns:
            whether it was sent; False if it takes more than one request, or the store can't post it now.

        Raises:
            InvalidParamsError: it can't be written as JSON.
        """
        params = self._params
        if params is None or self._first.amends is not None:
            return False
        params.epoch = self._epoch = epoch
        if not self._store._post(self._first.method, params, self):
            return False
        self._on_answer, self._reply = on_answer, self
        return True

    def abandon(self) -> None:
        """Its answer is not wanted any more."""
        self._on_answer = None

    def done(self) -> bool:
        """See `Waiter`."""
        return self._on_answer is None

    def set_result(self, line: bytes) -> None:
        """See `Waiter`."""
        try:
            answer: Answer = protocol.decode_version(line)
        except CallstateError as error:
            answer = error
        self.set_answer(answer)

    def set_exception(self, error: Exception) -> None:
        """See `Waiter`."""
        self.set_answer(error)

    def set_answer(self, answer: Answer) -> None:
        """This is what became of it."""
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(answer)

    # -- every other ----------------------------------------------------------------------------------------

    def failed(self, error: CallstateError, claim: Claim) -> bool:
        """Note that an attempt has failed; whether another has to be made.

        Args:
            error: why.
            claim: of the call, now.
        """
        was_posted, self._reply = self._reply is self, None
        if isinstance(error, WireError):  # an answer: neither this attempt nor an earlier one was applied
            self._unknown = False
        elif not isinstance(error, NoDaemonError):
            self._unknown = True
        if isinstance(error, FencedError):
            if self._epoch != claim.epoch:
                return True  # this worker has claimed the session again meanwhile
            if not (claim.is_being_renewed and error.owner == self._store._claimant):
                return False
        elif not error.retryable:
            return False
        if was_posted and isinstance(error, ConnectionLostError):
            return True  # the next attempt waits for another connection
        if self.last_error is None:
            _log.warning("%s of %s is kept and sent again later: %s", self._first.method, self._session_id, error)
        self.last_error = error
        if self._backoff is None:
            self._backoff = Backoff(DELIVER)
        self._pause_s = self._backoff.pause_s()
        return True

    async def deliver(self, claim: Claim) -> protocol.VersionResult:
        """Send it until it is answered.

        Args:
            claim: of the call.

        Raises:
            CallstateError: it was refused.
        """
        while True:
            pause_s, self._pause_s = self._pause_s, 0.0
            if pause_s:
                await asyncio.sleep(pause_s)
            self._epoch = claim.epoch
            try:
                return await self._send(self._epoch)
            except CallstateError as error:
                if not self.failed(error, claim):
                    raise
            except asyncio.CancelledError:
                self._unknown = self._first.action is not None or self.may_be_applied
                self._reply = None
                raise

    async def _send(self, epoch: int | None) -> protocol.VersionResult:
        self._reply = None
        if self._first.action is not None:
            return protocol.VersionResult(await self._first.action() or 0)
        params = self._params
        assert params is not None  # noqa: S101 - all but an action have them
        if self._first.amends is not None:
            await self._set_index(self._first.amends, params)
        params.epoch = epoch
        reply = self._reply = self._store.request(self._first.method, params, op_of=self._session_id)
        return protocol.decode_version(await reply)

    async def _set_index(self, turn: OutboxEntry, params: protocol.Mutation) -> None:
        """Set the index of the turn that an amendment is of.

        Raises:
            MethodNotFoundError: this daemon only amends the last turn.
        """
        assert isinstance(params, protocol.AmendTurnParams)  # noqa: S101 - nothing else amends a turn
        # read now: an older daemon may have replaced the one that was there when the amendment was queued
        features = await self._store.features() if turn.index is not None else ()
        requests.check_amendable(turn.index, params.role, features)
        params.index = turn.index
