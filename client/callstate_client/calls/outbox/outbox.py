"""The outbox of one call: queueing, and what an answer does to the call. For the design see the package."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from callstate_client import protocol
from callstate_client.calls.outbox.backlog import Backlog
from callstate_client.calls.outbox.entry import Action, OutboxEntry
from callstate_client.calls.outbox.in_flight import InFlight
from callstate_client.calls.outbox.local_changes import Change, TurnAdded
from callstate_client.calls.outbox.sender import Sender
from callstate_client.errors import (
    CallstateError,
    FencedError,
    InternalError,
    InvalidParamsError,
    OverloadedError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
    TooLargeError,
    UndeliveredError,
)
from callstate_client.session_api import SessionApi
from callstate_client.transport.loop_affinity import check_loop

__all__ = ["Outbox"]

_log = logging.getLogger("callstate")

MAKES_ROOM: Final = ("session.amend_turn", "session.update", "session.save")
"""After one of these there may be room for a turn again."""

SETS_STATUS: Final = ("session.update", "session.save")
"""An ended session refuses these because of the status that they set, but still accepts late turns."""

FATAL: Final = (SessionEndedError, SessionNotFoundError, FencedError, StoreClosedError)
"""After one of these the session accepts nothing more from this call."""


class Outbox:
    """The outbox of one call. Belongs to the loop it is created in.

    Args:
        store: sends the requests.
        undelivered: contains this outbox while it is not empty.
        session_id: of the call.
        epoch: the session's, the fencing token of all requests; None if it is not known.
        on_version: called with the version after each request.
        on_lost: called when the session accepts nothing more.
        on_empty: called when nothing is left to deliver.
        is_claiming: whether the store is claiming calls, without naming one, and does not know which yet.
    """

    def __init__(
        self,
        store: SessionApi,
        undelivered: set[Outbox],
        session_id: str,
        epoch: int | None,
        *,
        on_version: Callable[[int], None],
        on_lost: Callable[[CallstateError], None],
        on_empty: Callable[[], None],
        is_claiming: Callable[[], bool],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._undelivered = undelivered
        self.session_id = session_id
        self._on_version = on_version
        self._on_lost = on_lost
        self._on_empty = on_empty
        self._is_claiming = is_claiming
        self.epoch = epoch
        """Sent with each request from now on."""
        self._backlog = Backlog()
        self._sender = Sender(self, store)
        self._fatal: CallstateError | None = None
        self._full: tuple[int, CallstateError] | None = None  # the smallest turn that had no room, and the error
        self.closed = False
        """Whether it accepts nothing more: its call was left."""

    @property
    def full(self) -> CallstateError | None:
        """Why a turn had no room in the session, unless something has made room since."""
        return None if self._full is None else self._full[1]

    @property
    def last_error(self) -> CallstateError | None:
        """Why the request in flight has to be repeated; None if it has not."""
        in_flight = self._sender.in_flight
        return None if in_flight is None else in_flight.last_error

    def __len__(self) -> int:
        return len(self._backlog.entries)

    # -- queueing -------------------------------------------------------------------------------------------

    def check_room(self, size: int) -> None:
        """Check that there is room for an entry of this size.

        Args:
            size: of its JSON, bytes.

        Raises:
            StoreClosedError: the call is no longer held.
            TooLargeError: it does not fit into any request.
            OverloadedError: the outbox is full.
            RuntimeError: this is not the call's loop.
        """
        self._check_open()
        if not self._backlog.has_room(size):
            why = f": {self.last_error}" if self.last_error else ""
            raise OverloadedError(f"{len(self)} mutations of {self.session_id} are not acknowledged yet{why}")

    def _check_open(self) -> None:
        check_loop(self._loop, self.session_id)
        if self.closed:
            raise StoreClosedError(f"{self.session_id} is no longer held")

    def add_turn(self, turn: bytes, change: TurnAdded) -> OutboxEntry:
        """Queue a turn's JSON; `check_room` comes first."""
        entry = OutboxEntry(self._loop, "session.add_turn", turn=turn, change=change, key=change.turn)
        no_room = None if self._full is None else self._no_room_for(entry, *self._full)
        if no_room is not None:
            entry.fail(no_room)
            return entry
        return self._put(entry)

    @staticmethod
    def _no_room_for(entry: OutboxEntry, refused_bytes: int, error: CallstateError) -> CallstateError | None:
        """The error that an entry would be refused with; None if it may be accepted."""
        return error if entry.is_turn and entry.size >= refused_bytes else None

    def is_rewritable(self, turn: OutboxEntry) -> bool:
        """Whether this turn is queued, no part of a request that may have reached the daemon, and not followed by
        an amendment of it, which a later one has to come after."""
        return self._backlog.is_waiting(turn) and all(entry.amends is not turn for entry in self._backlog.entries)

    def rewrite(self, turn: OutboxEntry, text: bytes) -> None:
        """Send other JSON for a waiting turn; `check_room` comes first."""
        self._backlog.rewrite(turn, text)

    def turn_of(self, key: object) -> OutboxEntry | None:
        """The queued turn with this key; None if there is none."""
        return self._backlog.turn_of(key)

    def put(
        self,
        method: str,
        params: protocol.Mutation,
        change: Change,
        *,
        key: object = None,
        follows: OutboxEntry | None = None,
        amends: OutboxEntry | None = None,
    ) -> OutboxEntry:
        """Queue another mutation.

        Args:
            method: the verb.
            params: of the verb's class, with an `op`.
            change: of the worker's own view.
            key: what is patched. This patch may be merged into a waiting one of the same thing, which is returned.
            follows: if this turn is refused, so is the mutation.
            amends: the turn that is amended, whose index is sent with it; implies `follows`.

        Raises:
            StoreClosedError, TooLargeError, OverloadedError: as `check_room`; but there is always room for an end.
        """
        if isinstance(params, protocol.EndParams):
            self._check_open()
        else:
            self.check_room(len(getattr(params, "set", b"")))
        entry = OutboxEntry(self._loop, method, params, change=change, key=key)
        entry.amends, entry.follows = amends, amends or follows
        return self._put(entry)

    def put_action(self, method: str, action: Action, change: Change | None = None) -> OutboxEntry:
        """Queue something to be done in its place among the requests. Also accepted after `close()`."""
        check_loop(self._loop, self.session_id)
        return self._put(OutboxEntry(self._loop, method, action=action, change=change))

    def withdraw(self, entry: OutboxEntry) -> bool:
        """Remove an entry if it is still waiting; False if it is not."""
        if not self._backlog.is_waiting(entry):
            return False
        self._backlog.withdraw(entry)
        return True

    def _put(self, entry: OutboxEntry) -> OutboxEntry:
        if self._fatal is not None and entry.method != "session.end":
            entry.fail(self._fatal)
            return entry
        if entry.change is not None:
            entry.change.make()
        entry = self._backlog.put(entry)
        self._undelivered.add(self)
        self._sender.begin()
        return entry

    # -- what its sender asks ---------------------------------------------------------------------------------

    def resume(self) -> asyncio.Future[None] | None:
        """See that what is queued is being sent; see `Sender.resume`."""
        return self._sender.resume()

    @property
    def is_being_renewed(self) -> bool:
        """See `Claim`."""
        return self._is_claiming()

    @property
    def is_awaited(self) -> bool:
        """Whether a task waits for any of the mutations."""
        return any(entry.is_awaited for entry in self._backlog.entries)

    def emptied(self) -> None:
        """All is delivered."""
        self._undelivered.discard(self)
        self._on_empty()

    def next_request(self) -> InFlight:
        """The next request; its mutations are in flight from now on."""
        return InFlight(self._store, self.session_id, self._backlog.next_batch())

    def check_promising(self) -> None:
        """Check that the request in flight is not certain to be refused.

        Raises:
            CallstateError: it is; this is why.
        """
        first = self._backlog.entries[0]
        refusal = None if first.follows is None else first.follows.refusal
        if refusal is None and self._full is not None and self._backlog.in_flight == 1:
            refusal = self._no_room_for(first, *self._full)
        if refusal is not None:
            raise refusal

    def acknowledged(self, result: protocol.VersionResult) -> None:
        """The request in flight was acknowledged."""
        if result.version:
            self._on_version(result.version)
        if self._full is not None and self._backlog.entries[0].method in MAKES_ROOM:
            self._full = None
        version, turn_count, count = result.version, result.turn_count, self._backlog.in_flight
        for offset, entry in enumerate(self._backlog.take(count), -count):
            if turn_count is not None:
                entry.index = turn_count + offset
            entry.acknowledge(version)

    def failed(self, error: Exception) -> None:
        """The request in flight was refused, or can't be sent."""
        if not isinstance(error, CallstateError):
            _log.error("delivering for %s failed", self.session_id, exc_info=error)
            error = InternalError(f"{type(error).__name__}: {error}")
        self._refused(error)

    def _refused(self, error: CallstateError) -> None:
        count = self._backlog.in_flight
        if count > 1 and isinstance(error, InvalidParamsError | TooLargeError):
            self._backlog.split_batch()  # none of the turns was applied; one bad turn must not fail the others
            return
        of_status = isinstance(error, SessionEndedError) and self._backlog.entries[0].method in SETS_STATUS
        fatal = isinstance(error, FATAL) and not of_status
        if fatal:
            count, self._fatal = len(self), error
        refused = self._backlog.drop(count)
        # one with too many values has a path: it says nothing of the room that there is for others
        is_full = isinstance(error, TooLargeError) and error.path is None and refused[0].is_turn
        if not (is_full and self._full):  # which was logged
            _log.warning("%d mutations of %s were refused: %s", count, self.session_id, error)
        if is_full:
            self._full = (min(refused[0].size, self._full[0] if self._full else refused[0].size), error)
        for entry in refused:
            entry.fail(error)
        if fatal:
            self._on_lost(error)

    # -- leaving --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Accept nothing more. What is queued is still delivered."""
        self.closed = True

    def abandon(self) -> None:
        """In a forked child: the parent delivers what is queued, and its tasks do not exist here."""
        self.closed = True
        self._sender.forget()
        self._backlog.take(len(self))

    def give_up(self, error: UndeliveredError) -> None:
        """Deliver nothing more; what is queued fails with this error."""
        self.close()
        for entry in self._backlog.take(len(self)):
            entry.fail(error)
        self._sender.stop()

    def count_undelivered(self) -> tuple[int, int]:
        """How many mutations were never sent, and how many were sent and not answered. A release does not count."""
        in_flight = self._sender.in_flight
        sent = self._backlog.in_flight if in_flight is not None and in_flight.may_be_applied else 0
        is_loss = [entry.method != "session.release" for entry in self._backlog.entries]
        return sum(is_loss[sent:]), sum(is_loss[:sent])
