"""A call that is held by a block of a program without asyncio.

Unlike the asyncio front's `CallHandle` it has no outbox: each method sends its request in the epoch of the call,
waits for the acknowledgement and only then changes the local state, which therefore never runs ahead of the daemon.
Repeated after a lost connection, each mutation still takes effect once, by its `op`.

A call is *lost* when the answer to a heartbeat or a request says that another worker has claimed it, that it has
ended or is missing. A forked child does not hold the calls of its parent: they are lost there, and leaving their
blocks does nothing.
"""

from __future__ import annotations

import logging
import os
from bisect import insort
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from operator import itemgetter
from threading import RLock
from types import TracebackType
from typing import Any, TypeVar, Unpack

from callstate_client.calls.heartbeats.thread import HeartbeatThread
from callstate_client.calls.hold_rules import COMPLETED, EndOn, end_classes, reason_to_end
from callstate_client.calls.outbox.local_changes import (
    Change,
    HeadPatched,
    Interrupted,
    LastTurnAmended,
    Switched,
    TurnAdded,
)
from callstate_client.calls.view import StateView
from callstate_client.errors import (
    CallstateError,
    ConnectionLostError,
    FencedError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
)
from callstate_client.model.state import SessionState
from callstate_client.model.times import now
from callstate_client.model.turn import Turn
from callstate_client.model.wellformed import cleaned, turn_extra, turn_values
from callstate_client.requests import Redaction
from callstate_client.requests.patches import Changes, find_last_turn, split_changes, turn_patch
from callstate_client.store import Record
from callstate_client.sync.session_api import SessionApi
from callstate_client.uncopied import Uncopied

_log = logging.getLogger("callstate")

ResultT = TypeVar("ResultT")


class HeldCall(Uncopied):
    """A call that is held. Each method returns once the daemon has acknowledged it, or raises.

    Safe to use from several threads. A method that fails because another worker has claimed the call, or because it
    has ended, also makes it `lost`.

    Args:
        api: sends requests as the worker that holds the call.
        record: the session as it was created or claimed; its `state` is updated from now on.
        heartbeats: sends heartbeats for the call from now on; None: the caller does, by `beat()`.
        end_on: exceptions that end the call when they leave its block.
        on_release: called once, when the call is no longer held.
        settle_claims: returns once the claims of the store that are in flight are noted.
        redaction: applied to turns before they are sent.
    """

    instead = "copy its `state`; another process claims the call with hold(id)"

    def __init__(
        self,
        api: SessionApi,
        record: Record,
        heartbeats: HeartbeatThread | None,
        end_on: EndOn,
        on_release: Callable[[HeldCall], None],
        settle_claims: Callable[[], None],
        *,
        redaction: Redaction | None = None,
    ) -> None:
        self._api = api
        self._state = record.state
        self._view = StateView(record.state)
        self._heartbeats = heartbeats
        self.end_on = end_classes(end_on)
        """Exceptions that mean the call is over, should they leave its block."""
        self.handovers = record.handovers
        """How often in a row the call was claimed and then held for less than a minute, by any worker."""
        self._on_release = on_release
        self._settle_claims = settle_claims
        self._redaction = redaction
        self._lost: CallstateError | None = None
        self._leaving = False
        """Whether the release is on its way: a new claim of the call by this store is not for this block."""
        self._epoch_lock = RLock()
        self._change_lock = RLock()
        """Held while the local state changes. Reentrant, as a signal handler may change it too."""
        self._begun: dict[object, int] = {}
        """Mutations that are not acknowledged yet, and the version that was known when each began: its own will be
        greater."""
        self._recent: list[tuple[int, Change]] = []
        """By version, the changes of the local state that one of those may have to be made before."""
        self._pid = os.getpid()
        self.version = record.version
        """The session's version after the last acknowledged mutation."""
        self.epoch = record.epoch
        """The fencing token of this hold: mutations fail once another worker has claimed the call."""
        self.labels: Mapping[str, str] = record.labels
        """Its labels, as they were when it was held, or as `update(labels=…)` has set them since. Read-only."""
        self.ended = False
        """Whether `end()` was acknowledged."""
        self.released = False
        """Whether the call is no longer held: it was released, or its block was left."""
        if heartbeats is not None and record.heartbeat_timeout_s is not None:
            heartbeats.add(self.id, record.heartbeat_timeout_s, self._lose)

    def __repr__(self) -> str:
        return f"HeldCall({self.id!r}, status={self._state.status!r})"

    @property
    def id(self) -> str:
        """The session's id."""
        return self._state.id

    @property
    def state(self) -> SessionState:
        """The call as of the last acknowledged mutation. Read-only: the methods of the call change it."""
        return self._view

    @property
    def lost(self) -> CallstateError | None:
        """Why the session accepts no more heartbeats or mutations, according to the last one; None while it
        does."""
        if self._lost is None and os.getpid() != self._pid:
            self._lost = ConnectionLostError("this is a forked child: the call is held by its parent")
        return self._lost

    def _lose(self, error: CallstateError) -> None:
        self._stop_heartbeats()
        if self._lost is None and not (self.ended or self.released):
            self._report_left(error)
            self._lost = error
            _log.warning("%s is lost: %s", self.id, error)

    def _stop_heartbeats(self) -> None:
        if self._heartbeats is not None:
            self._heartbeats.discard(self.id, self._lose)

    def _while_held(self, send: Callable[[], ResultT]) -> ResultT:
        """Send something for the call; the call is lost if the daemon says so.

        Raises:
            StoreClosedError: the call is no longer held.
            ConnectionLostError: this is a forked child.
        """
        if self.released:
            raise StoreClosedError(f"{self.id} is no longer held")
        if os.getpid() != self._pid and self.lost is not None:
            raise self.lost
        while True:
            epoch = self.epoch
            try:
                return send()
            except (FencedError, SessionEndedError, SessionNotFoundError) as error:
                if not self._is_claimed_anew(epoch, error):
                    self._lose(error)
                    raise

    def _is_claimed_anew(self, epoch: int, error: CallstateError) -> bool:
        """Whether what was sent in this epoch was refused because this store has claimed the call again."""
        if not isinstance(error, FencedError) or error.owner != self._api.worker_id:
            return False
        self._settle_claims()
        return self.epoch != epoch

    def _mutate(self, send: Callable[[], int], change: Change) -> int:
        """Send a mutation and make the same change to the local state once it is acknowledged."""
        mutation = object()
        try:
            with self._change_lock:
                self._begun[mutation] = self.version
            version = self._while_held(send)
            with self._change_lock:
                self._make(change, version)
                self._state.updated_at = now()
        finally:
            with self._change_lock:
                self._begun.pop(mutation, None)
                known = min(self._begun.values(), default=self.version)
                self._recent = [made for made in self._recent if made[0] > known]
        return version

    def _make(self, change: Change, version: int) -> None:
        """Make a change in the place that the daemon has given it: later ones may have been acknowledged to other
        threads before."""
        later = [made for at, made in self._recent if at > version]
        for made in reversed(later):
            made.undo()
        change.make()
        for made in later:
            with suppress(CallstateError):  # as when it was made first
                made.make()
        self.version = max(self.version, version)
        insort(self._recent, (version, change), key=itemgetter(0))

    # -- what happens in the call -----------------------------------------------------------------------------

    def add_turn(
        self,
        role: str,
        content: str,
        duration_ms: int = 0,
        *,
        at: datetime | None = None,
        extra: dict[str, Any] | None = None,
        response_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Append a turn: something was said. Returns the new version.

        Args:
            role: see `Role`.
            content: what was said.
            duration_ms: how long it took to say, milliseconds; any real number, rounded.
            at: when it was said; default now.
            extra: further members of the turn.
            response_ms: time from the end of what the user said to the first word of this turn, milliseconds; goes
                into `first_response_ms` and `average_response_ms` of the metrics.
            timeout_s: how long this may take, seconds; None for the store's default. The same below.

        Raises:
            DocumentError: this can't be sent; nothing has changed.
        """
        at = at or now()
        role, content, duration_ms = turn_values(role, content, duration_ms)
        extra = turn_extra(extra, response_ms)
        if self._redaction is not None:
            redacted = self._redaction.values(self.id, role, content, duration_ms, at, extra)
            role, content, duration_ms, at, extra = redacted
        turn = Turn(role, content, timestamp=at, duration_ms=duration_ms, extra=cleaned(extra))
        return self._mutate(
            lambda: self._api.add_turn(
                self.id, role, content, duration_ms, at=at, extra=extra, epoch=self.epoch, timeout_s=timeout_s
            ),
            TurnAdded(self._state, turn),
        )

    def amend_last_turn(
        self,
        *,
        content: str | None = None,
        duration_ms: int | None = None,
        extra: dict[str, Any] | None = None,
        role: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Change the last turn, or the last one of a role, for example to what was heard before a barge-in. Returns
        the new version.

        Args:
            content: what was said; None leaves it.
            duration_ms: how long it took, milliseconds; None leaves it. Speech time is not counted again.
            extra: members to add or replace; None as a value removes one.
            role: the last turn of this role, whatever has been said since.

        Raises:
            ConflictError: there is no such turn.
            MethodNotFoundError: `role` was given, and the daemon is too old to know it.
        """
        turn = find_last_turn(self._state, role)
        if self._redaction is not None:
            content, extra = self._redaction.patch(self.id, turn.role, content, extra)
        return self._mutate(
            lambda: self._api.amend_last_turn(
                self.id,
                content=content,
                duration_ms=duration_ms,
                extra=extra,
                role=role,
                epoch=self.epoch,
                timeout_s=timeout_s,
            ),
            LastTurnAmended(self._state, role, turn_patch(content, duration_ms, extra)),
        )

    def record_interruption(self, *, timeout_s: float | None = None) -> int:
        """Count an interruption: the caller spoke over the agent. Returns the new version."""
        return self._mutate(
            lambda: self._api.record_interruption(self.id, epoch=self.epoch, timeout_s=timeout_s),
            Interrupted(self._state),
        )

    def update(self, *, timeout_s: float | None = None, **changes: Unpack[Changes]) -> int:
        """Change members of the session, all but its history; see `Store.update`. Returns the new version."""
        patch, beside = split_changes(changes)
        version = self._mutate(
            lambda: self._api.update(self.id, epoch=self.epoch, timeout_s=timeout_s, **changes),
            HeadPatched(self._state, patch),
        )
        if "labels" in beside:
            self.labels = beside["labels"]
        is_held = self.lost is None and not self.released  # another thread may have left it meanwhile
        if self._heartbeats is not None and is_held and "heartbeat_timeout_s" in beside:
            self._heartbeats.add(self.id, beside["heartbeat_timeout_s"], self._lose)
        return version

    def end(self, reason: str = COMPLETED, detail: Any = None, *, timeout_s: float | None = None) -> int:
        """End the call. Leaving the block does not end it a second time. Returns the version.

        Args:
            reason: why, in a word of your choice, up to 64 bytes.
            detail: any JSON that explains the reason.
        """
        version = self._mutate(
            lambda: self._api.end(self.id, reason, detail, epoch=self.epoch, timeout_s=timeout_s),
            Switched(self._state, self._set_ended),
        )
        self._stop_heartbeats()
        return version

    def _set_ended(self, _: bool) -> None:
        self.ended = True  # also while the change is undone to be made again: it was acknowledged

    def beat(self, *, timeout_s: float | None = None) -> None:
        """Send a heartbeat: for `hold(beat="manual")`.

        Raises:
            SessionNotFoundError, SessionEndedError, FencedError: the call is over, or belongs to another worker;
                see `lost`.
        """
        self._while_held(lambda: self._api.update_heartbeat(self.id, timeout_s=timeout_s))

    # -- leaving ----------------------------------------------------------------------------------------------

    def release(self, *, timeout_s: float | None = None) -> None:
        """Release the call without ending it, for another worker to claim at once. Idempotent."""
        if self.released or os.getpid() != self._pid:
            return
        with self._epoch_lock:
            self._leaving = True
        try:
            if not (self.ended or self.lost):
                with suppress(FencedError, SessionEndedError, SessionNotFoundError):  # no longer ours: see `lost`
                    self._while_held(lambda: self._api.release(self.id, self.epoch, timeout_s=timeout_s))
        finally:
            self._set_released()

    def reclaimed(self, epoch: int) -> bool:
        """Go on in the epoch of a new claim by this store: the session had become an orphan.

        Returns:
            False if the call is being released, or is lost: the claim is for another block.
        """
        with self._epoch_lock:
            if self._leaving or self.lost is not None:
                return False
            self.epoch = epoch
            return True

    def hand_over(self) -> None:
        """A later block of this store takes the call over. This block finds it lost; leaving it does nothing."""
        error = FencedError(f"{self.id} was taken over by a later block of this worker", epoch=self.epoch)
        self._report_left(error)
        self._lost = error
        _log.info("%s is taken over by a later block of this worker", self.id)
        self._set_released()

    def _report_left(self, error: CallstateError | None) -> None:
        if self._api._telemetry is not None and not (self.released or self._lost):
            self._api._telemetry.call_left(error)

    def _set_released(self) -> None:
        self._report_left(None)
        self._stop_heartbeats()
        self.released = True
        self._on_release(self)

    def give_back(self, error: CallstateError) -> None:
        """Release the call while its block runs in another thread, which finds it lost.

        Args:
            error: what `lost` is from now on.
        """
        try:
            self.release()
        except CallstateError as failure:
            _log.warning("%s was not released cleanly: %s", self.id, failure)
        self._lost = self._lost or error

    def __enter__(self) -> HeldCall:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(error)

    def leave(self, error: BaseException | None) -> None:
        """End or release the call, as its block is left; see `reason_to_end`.

        Args:
            error: the exception that leaves the block; None for none.

        Raises:
            CallstateError: why the end was not acknowledged, unless the block raised an exception itself.
        """
        if os.getpid() != self._pid:  # a forked child leaves the block: the call belongs to its parent
            return
        try:
            self._end_or_release(error)
        except CallstateError as failure:
            if error is None:
                raise
            _log.warning("%s was not left cleanly: %s", self.id, failure)
        finally:
            if not self.released:
                self._set_released()

    def _end_or_release(self, error: BaseException | None) -> None:
        reason = reason_to_end(error, self.end_on)
        if reason is None or self.released:
            self.release()
        elif self.ended or isinstance(self.lost, SessionEndedError):
            pass  # to end what has ended is no error, whether it is known that it has or not
        elif self.lost is not None:
            raise self.lost
        else:
            self.end(reason)
