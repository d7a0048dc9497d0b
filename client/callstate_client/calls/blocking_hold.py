"""A call for as long as a block of a program without asyncio lasts: `with store.hold(...) as call`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from callstate_client import requests
from callstate_client.calls.heartbeat_thread import BeatThread
from callstate_client.calls.hold_rules import (
    BeatMode,
    EndOn,
    check_hold,
    end_classes,
    end_reason,
    ended_by,
    has_ended,
    taken,
)
from callstate_client.calls.outbox.local_changes import (
    Change,
    HeadPatched,
    Interrupted,
    Switched,
    TurnAdded,
    TurnAmended,
)
from callstate_client.calls.view import StateView
from callstate_client.errors import (
    CallstateError,
    ConflictError,
    ConnectionLostError,
    FencedError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
)
from callstate_client.model.state import SessionState
from callstate_client.model.times import now
from callstate_client.model.turn import Turn
from callstate_client.model.wellformed import cleaned, turn_values
from callstate_client.protocol.patches import (
    Changes,
    find_last_turn,
    patch_state,
    split_changes,
    turn_patch,
)
from callstate_client.requests import PreparedRequest
from callstate_client.store import Record
from callstate_client.uncopied import Uncopied

if TYPE_CHECKING:
    from callstate_client.sync import Store

__all__ = ["HeldCall", "Hold"]

_log = logging.getLogger("callstate")

COMPLETED = "completed"

ResultT = TypeVar("ResultT")


class HeldCall(Uncopied):
    """One call, held. Each method asks the daemon, and returns when it has acknowledged; nothing is queued.

    Safe to use from several threads. What is refused since the call is another's, or is over, is why it is `lost`.
    """

    instead = "copy its `state`; another process claims the call with hold(id)"

    def __init__(self, store: Store, record: Record, beats: BeatThread | None, end_on: EndOn) -> None:
        self._store = store
        self._state = record.state
        self._view = StateView(record.state)
        self._beats = beats
        self._end_on = end_classes(end_on)
        self._lost: CallstateError | None = None
        self._pid = os.getpid()
        self.version = record.version
        """Of the last acknowledged mutation."""
        self.epoch = record.epoch
        """A fencing token: what another has claimed since takes nothing of ours."""
        self.ended = False
        """Whether `end()` was acknowledged."""
        self.released = False
        """Whether it was let go of, or its block left."""
        if beats is not None and record.heartbeat_timeout_s is not None:
            beats.add(self.id, record.heartbeat_timeout_s, self._lose)

    def __repr__(self) -> str:
        return f"HeldCall({self.id!r}, status={self._state.status!r})"

    @property
    def id(self) -> str:
        """The session's id."""
        return self._state.id

    @property
    def state(self) -> SessionState:
        """The call as this worker knows it. To look at: it changes by the methods of the call."""
        return self._view

    @property
    def lost(self) -> CallstateError | None:
        """Why the session takes no more beats or mutations of ours, as it was told by the last of them; None while
        it does."""
        if self._lost is None and os.getpid() != self._pid:
            self._lost = ConnectionLostError("this is a forked child: the call is held by its parent")
        return self._lost

    def _lose(self, error: CallstateError) -> None:
        self._beat_no_more()
        if self._lost is None and not (self.ended or self.released):
            self._lost = error
            _log.warning("%s is lost: %s", self.id, error)

    def _beat_no_more(self) -> None:
        if self._beats is not None:
            self._beats.discard(self.id, self._lose)

    def _asked(self, ask: Callable[[], ResultT]) -> ResultT:
        if self.released:
            raise StoreClosedError(f"{self.id} is not held any more")
        if os.getpid() != self._pid and self.lost is not None:
            raise self.lost
        try:
            return ask()
        except (FencedError, SessionEndedError, SessionNotFoundError) as error:
            self._lose(error)
            raise

    def _change(self, ask: PreparedRequest[int], change: Change | None, timeout_s: float | None = None) -> int:
        ask.params = requests.with_epoch(ask.params, self.epoch)
        self.version = self._asked(lambda: self._store._ask_held(ask, timeout_s))
        if change is not None:
            change.make()
        self._state.updated_at = now()
        return self.version

    # -- what happens in the call -----------------------------------------------------------------------------

    def add_turn(
        self,
        role: str,
        content: str,
        duration_ms: int = 0,
        *,
        at: datetime | None = None,
        extra: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Something was said. Gives the new version.

        Args:
            role: see `Role`.
            content: what was said.
            duration_ms: how long it took to say, milliseconds.
            at: when; default now.
            extra: further members of the turn.
            timeout_s: how long this may take, seconds; None for the store's own, as in all that follows.
        """
        at = at or now()
        ask = requests.add_turn(self.id, role, content, duration_ms, at, extra, self._store.new_op())
        role, content, duration_ms = turn_values(role, content, duration_ms)
        turn = Turn(role, content, timestamp=at, duration_ms=duration_ms, extra=cleaned(extra))
        return self._change(ask, TurnAdded(self._state, turn), timeout_s)

    def amend_last_turn(
        self,
        *,
        content: str | None = None,
        duration_ms: int | None = None,
        extra: dict[str, Any] | None = None,
        role: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Change the last turn, or the last one of a role; see the store's. Gives the new version.

        Raises:
            ConflictError: there is no such turn.
        """
        if role is not None:
            requests.check_amendable(None, role, self._store.features())
        turn = find_last_turn(self._state, role)
        ask = requests.amend_turn(self.id, None, role, content, duration_ms, extra, self._store.new_op())
        return self._change(ask, TurnAmended(turn, turn_patch(content, duration_ms, extra)), timeout_s)

    def record_interruption(self, *, timeout_s: float | None = None) -> int:
        """The caller spoke over the agent. Gives the new version."""
        ask = requests.record_interruption(self.id, self._store.new_op())
        return self._change(ask, Interrupted(self._state), timeout_s)

    def update(self, *, timeout_s: float | None = None, **changes: Unpack[Changes]) -> int:
        """Change members of the session, all but its history; see the store's. Gives the new version."""
        patch, beside = split_changes(changes)
        if not beside:
            ask = requests.update(self.id, None, patch, self._store.new_op())
            return self._change(ask, HeadPatched(self._state, patch), timeout_s)
        self.version = self._asked(
            lambda: self._store._rewrite_head(
                self.id, None, patch, beside, self._store._ask_held, epoch=self.epoch, timeout_s=timeout_s
            )
        )
        patch_state(self._state, patch)
        if self._beats is not None and "heartbeat_timeout_s" in beside:
            self._beats.add(self.id, beside["heartbeat_timeout_s"], self._lose)
        return self.version

    def end(self, reason: str = COMPLETED, detail: Any = None, *, timeout_s: float | None = None) -> int:
        """The call is over. Leaving the block does not end it a second time. Gives the version.

        Args:
            reason: a word of the worker's own, up to 64 bytes.
            detail: any JSON beside it.
        """
        ask = requests.end(self.id, reason, detail, self._store.new_op())
        version = self._change(ask, Switched(self._state, self._set_ended), timeout_s)
        self._beat_no_more()
        return version

    def _set_ended(self, ended: bool) -> None:
        self.ended = ended

    def beat(self, *, timeout_s: float | None = None) -> None:
        """Say that the call is alive: for `beat="manual"`.

        Raises:
            SessionNotFoundError, SessionEndedError, FencedError: it is not, or not ours; see `lost`.
        """
        ask = requests.heartbeat(self.id)
        self._asked(lambda: self._store._ask_held(ask, timeout_s))

    def release(self, *, timeout_s: float | None = None) -> None:
        """Let go of the call without ending it, for another worker to claim at once. Twice, it changes nothing."""
        if self.released or os.getpid() != self._pid:
            return
        try:
            if not (self.ended or self.lost):
                ask = requests.release(self.id, self.epoch)
                self._asked(lambda: self._store._ask_held(ask, timeout_s))
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._beat_no_more()
        self.released = True
        self._store._let_go(self)

    def leave(self, error: BaseException | None) -> None:
        """What leaving its block means for the call: normally it ends, by an exception in `end_on`, or a group with
        one, as well; by any other it is released.

        Raises:
            CallstateError: what kept the end from being acknowledged, unless another exception is under way.
        """
        if os.getpid() != self._pid:  # a forked child leaves the block: the call is its parent's
            return
        try:
            if error is None or (cause := ended_by(error, self._end_on)) is None:
                reason = COMPLETED if error is None else None
            else:
                reason = end_reason(cause)
            if reason is None:
                self.release()
            elif self.lost is not None and not self.ended:
                raise self.lost
            elif not (self.ended or self.released):
                self.end(reason)
        except CallstateError as failure:
            if error is None:
                raise
            _log.warning("%s was not left cleanly: %s", self.id, failure)
        finally:
            if not self.released:
                self._let_go()


class Hold(Uncopied):
    """What `store.hold()` gives: creates or claims the session on entering, ends or releases it on leaving.

    The same Hold entered again after an entry that got no answer takes up what that one may have created.
    """

    instead = "call hold() again"

    def __init__(
        self,
        store: Store,
        call: SessionState | str,
        *,
        labels: Mapping[str, str] | None,
        heartbeat_timeout_s: float | None,
        max_duration_s: float | None,
        beat: BeatMode,
        end_on: EndOn,
        steal: bool,
        replace_ended: bool,
        resume: bool,
    ) -> None:
        check_hold(call, labels, beat, steal=steal, replace_ended=replace_ended, resume=resume)
        self._store = store
        self._call = call
        self._labels = labels
        self._timeouts = heartbeat_timeout_s, max_duration_s
        self._beat: BeatMode = beat
        self._end_on = end_classes(end_on)
        self._steal = steal
        self._replace_ended = replace_ended
        self._resume = resume
        self._op = store.new_op()
        self._tried = False
        self._held: HeldCall | None = None

    def __enter__(self) -> HeldCall:
        session_id = self._call if isinstance(self._call, str) else self._call.id
        if self._held is not None:
            raise RuntimeError(f"{session_id} is held by this block already")
        with self._store._entering(session_id):
            record = self._enter()
            beats = self._store._beat_thread() if self._beat == "auto" else None
            self._held = HeldCall(self._store, record, beats, self._end_on)
            self._store._hold(self._held)
        return self._held

    def _enter(self) -> Record:
        if isinstance(self._call, str):
            return self._claim(self._call)
        again, self._tried = self._tried, True
        if not self._resume:
            return self._create(self._call, again, replace_ended=self._replace_ended)
        with suppress(ConflictError):
            return self._create(self._call, again, replace_ended=False)
        try:
            return self._claim(self._call.id)
        except SessionEndedError:
            if not self._replace_ended:
                raise
            return self._create(self._call, again, replace_ended=True)

    def _claim(self, session_id: str) -> Record:
        timeouts = self._store._claim_timeouts(*self._timeouts)
        return self._store._ask_held(
            requests.claim(
                session_id,
                self._store.worker_id,
                "all",
                steal=self._steal,
                heartbeat_timeout_s=timeouts[0],
                max_duration_s=timeouts[1],
            ),
            None,
        )

    def _create(self, state: SessionState, again: bool, *, replace_ended: bool) -> Record:
        try:
            record = self._save(state, 0, self._labels)
        except ConflictError as error:
            known = self._store.get(state.id, "none")
            if not (replace_ended and has_ended(error, known)):
                raise taken(error, state.id, known) from error
            # of the version that has ended: of two who do this one gets the id
            record = self._save(state, error.version or known.version, self._labels or {})
        if again:  # it may be the session of the entry before, which has been released or ended since
            record.epoch = self._claim(state.id).epoch
        return record

    def _save(self, state: SessionState, if_version: int, labels: Mapping[str, str] | None) -> Record:
        saved = self._store._ask_held(requests.save(state, if_version, labels, *self._timeouts, self._op), None)
        if saved.epoch is not None:
            timeout_s = saved.heartbeat_timeout_s or self._timeouts[0]
            return Record(state, saved.version, epoch=saved.epoch, heartbeat_timeout_s=timeout_s)
        return self._store._ask_held(requests.get(state.id, "all"), None)  # a daemon of an earlier version

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._held = self._held, None
        assert held is not None  # noqa: S101 - entered before it is left
        held.leave(error)
