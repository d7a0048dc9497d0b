"""The request in flight: what is sent, and its repetition until there is an answer that a repeat would not change.

It outlives the sending task: when that is cancelled, the next one continues with the same request and its `op`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from callstate_client import protocol, requests
from callstate_client.calls.outbox.entry import OutboxEntry
from callstate_client.errors import CallstateError, FencedError, NoDaemonError, WireError
from callstate_client.session_api import SessionApi
from callstate_client.transport.backoff import DELIVER, Backoff

__all__ = ["InFlight"]

_log = logging.getLogger("callstate")


class InFlight:
    """One request.

    Args:
        store: sends it.
        session_id: of the call.
        batch: the entries that it delivers: turns, or one other.
    """

    __slots__ = ("_first", "_params", "_reply", "_session_id", "_store", "_unknown", "last_error")

    def __init__(self, store: SessionApi, session_id: str, batch: Sequence[OutboxEntry]) -> None:
        self._store = store
        self._session_id = session_id
        self._first = batch[0]
        self._params = self._first.params
        if self._first.is_turn:
            turns = msgspec.Raw(b"[%b]" % b",".join([entry.turn for entry in batch]))
            self._params = protocol.AddTurnParams(session_id=session_id, turns=turns, op=store.new_op())
        self._reply: Awaitable[bytes] | None = None  # of the present attempt
        self._unknown = False  # an earlier attempt was sent and not answered
        self.last_error: CallstateError | None = None
        """Why the last attempt has to be repeated; None if there was none."""

    @property
    def may_be_applied(self) -> bool:
        """Whether the daemon may have applied it although it is not acknowledged."""
        return self._unknown or (self._reply is not None and self._store._may_have_left(self._reply))

    async def deliver(self, epoch: Callable[[], int | None]) -> protocol.VersionResult:
        """Send it until it is answered.

        Args:
            epoch: returns the session's epoch at the time of an attempt.

        Raises:
            CallstateError: it was refused.
        """
        backoff = Backoff(DELIVER)
        while True:
            sent_epoch = epoch()
            try:
                result = await self._send(sent_epoch)
            except CallstateError as error:
                self._reply = None
                if isinstance(error, WireError):  # an answer: neither this attempt nor an earlier one was applied
                    self._unknown = False
                elif not isinstance(error, NoDaemonError):
                    self._unknown = True
                if isinstance(error, FencedError) and sent_epoch != epoch():
                    continue  # this worker has claimed the session again meanwhile
                if not error.retryable:
                    raise
                if self.last_error is None:
                    _log.warning("%s of %s is kept for later: %s", self._first.method, self._session_id, error)
                self.last_error = error
            except asyncio.CancelledError:
                self._unknown = self._first.action is not None or self.may_be_applied
                self._reply = None
                raise
            else:
                return result
            await asyncio.sleep(backoff.pause_s())

    async def _send(self, epoch: int | None) -> protocol.VersionResult:
        self._reply = None
        if self._first.action is not None:
            return protocol.VersionResult(await self._first.action() or 0)
        params = self._params
        assert params is not None  # noqa: S101 - all but an action have them
        if self._first.amends is not None:
            await self._set_index(self._first.amends, params)
        params.epoch = epoch
        self._reply = self._store.request(self._first.method, params, op_of=self._session_id)
        return protocol.decode_version(await self._reply)

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
