"""`store.hold()` of the blocking front: creates or claims a call on entry, ends or releases it on exit.

A store holds a call in one block at a time: a second one is refused. A forked child holds none of its parent's
calls. One thread sends the heartbeats of all calls of a store; it starts with the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import RLock, Thread
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary

from callstate_client.calls.heartbeats.schedule import default_timeout_s
from callstate_client.calls.heartbeats.thread import HeartbeatThread
from callstate_client.calls.hold_rules import (
    BeatMode,
    EndOn,
    HoldOptions,
    end_classes,
    has_ended,
    held_elsewhere,
    not_claimable,
    not_resumed,
    taken,
)
from callstate_client.errors import CallstateError, ConflictError, SessionEndedError, SessionNotFoundError
from callstate_client.model.state import SessionState
from callstate_client.requests import Redaction
from callstate_client.store import Record
from callstate_client.sync.held_call import HeldCall
from callstate_client.sync.requester import PerProcess
from callstate_client.sync.session_api import SessionApi
from callstate_client.transport.identity import Identity
from callstate_client.transport.pool import Pool
from callstate_client.uncopied import Uncopied


class _Holding:
    """What one process holds."""

    def __init__(self) -> None:
        self.lock = RLock()
        """Reentrant, as is `claiming`: a signal handler may hold a call, or change one, while they are held."""
        self.claiming = RLock()
        """Held while a claim that names no session is in flight, until its outcome is noted."""
        self.calls: WeakValueDictionary[str, HeldCall] = WeakValueDictionary()
        """Weak: what its user has dropped, or an interruption has left to nobody, gets no more heartbeats."""
        self.entering: set[str] = set()
        self.heartbeats: HeartbeatThread | None = None


class HeldCalls:
    """The calls that the blocks of one store hold.

    Args:
        api: sends requests as the store's worker, over connections that are registered for it.
        pool: those connections.
        identity: what they register with.
        epochs: of the sessions that the store holds, by id; those of held calls are added.
        redaction: applied to the turns of held calls.
    """

    def __init__(
        self,
        api: SessionApi,
        pool: Pool,
        identity: PerProcess[Identity],
        epochs: PerProcess[dict[str, int]],
        redaction: Redaction | None,
    ) -> None:
        self.api = api
        self.redaction = redaction
        self._pool = pool
        self._identity = identity
        self._epochs = epochs
        self._holding = PerProcess(_Holding(), _Holding)

    @contextmanager
    def entering(self, session_id: str, *, take_over: bool = False) -> Iterator[None]:
        """Reserve a session for the block that is about to hold it.

        Args:
            session_id: of the call.
            take_over: a block of this store that still holds it loses it.

        Raises:
            ConflictError: another block of this store holds it, or is about to.
        """
        ours = self._holding.get()
        is_ours = False
        try:  # from before it is reserved: an interruption may come just after that
            with ours.lock:
                held = ours.calls.get(session_id)
                is_held = held is not None and held.lost is None
                if session_id in ours.entering or (is_held and not take_over):
                    text = f"{session_id} is held by this store already; hold(state, resume=True) takes it over"
                    raise ConflictError(text, owner=self.api.worker_id)
                is_ours = True
                ours.entering.add(session_id)
            if held is not None and is_held:
                held.hand_over()
            yield
        finally:
            if is_ours:
                ours.entering.discard(session_id)

    def hold(self, record: Record, beat: BeatMode, end_on: EndOn) -> HeldCall:
        """Hold a session that was just created or claimed, until it is released.

        Args:
            record: the session.
            beat, end_on: see `Store.hold`.
        """
        heartbeats = self._heartbeats() if beat == "auto" else None
        if heartbeats is not None and record.heartbeat_timeout_s is None:
            record.heartbeat_timeout_s = self._default_timeout_s()
        call = HeldCall(
            self.api, record, heartbeats, end_on, self._discard, self._settle_claims, redaction=self.redaction
        )
        if self.api._telemetry is not None:
            self.api._telemetry.call_held()
        self._holding.get().calls[call.id] = call
        self._epochs.get()[call.id] = call.epoch
        return call

    def _default_timeout_s(self) -> float:
        """For a session of an older daemon, which does not say it for each. The session is ours by now, so that it
        gets heartbeats even if this can't be asked for."""
        info: dict[str, Any] = {}
        with suppress(CallstateError):
            info = self.api.info()
        return default_timeout_s(info)

    def claim_new(self, claim: Callable[[], Record | None]) -> Record | None:
        """Claim until it is a call that no block of this store holds. One that a block does hold had become an
        orphan, and goes on in its new epoch.

        Args:
            claim: claims any call; returns None if there is none.
        """
        with self._holding.get().claiming:
            while (record := claim()) is not None and self._reclaimed(record):
                pass
            return record

    def _settle_claims(self) -> None:
        """Return once the claims that are in flight now are noted."""
        with self._holding.get().claiming:
            return

    def _reclaimed(self, record: Record) -> bool:
        held = self._holding.get().calls.get(record.state.id)
        if held is None or not held.reclaimed(record.epoch):
            return False
        self._epochs.get()[held.id] = record.epoch
        return True

    def _discard(self, call: HeldCall) -> None:
        calls = self._holding.get().calls
        if calls.get(call.id) is call:
            del calls[call.id]
            self._epochs.get().pop(call.id, None)

    def _heartbeats(self) -> HeartbeatThread:
        ours = self._holding.get()
        with ours.lock:
            if ours.heartbeats is None:
                ours.heartbeats = HeartbeatThread(lambda: self._pool.places, self._identity.get)
            return ours.heartbeats

    def stop_heartbeats(self) -> Thread | None:
        """Send no more heartbeats. Returns the thread that sent them, which ends at once."""
        heartbeats = self._holding.get().heartbeats
        return None if heartbeats is None else heartbeats.leave()


class Hold(Uncopied):
    """What `store.hold()` returns: creates or claims the session on entry, ends or releases it on exit.

    The same Hold entered again after an entry that got no answer takes over what that one may have created.
    """

    instead = "call hold() again"

    def __init__(self, calls: HeldCalls, options: HoldOptions) -> None:
        self._calls = calls
        self._options = options
        self._end_on = end_classes(options.end_on)
        self._op = calls.api.new_op()
        self._tried = False
        self._held: HeldCall | None = None

    @property
    def id(self) -> str:
        """The session's id."""
        return self._options.id

    def __enter__(self) -> HeldCall:
        if self._held is not None:
            raise RuntimeError(f"{self.id} is already held by this block")
        with self._calls.entering(self.id, take_over=self._options.resume):
            self._held = self._calls.hold(self._enter(), self._options.beat, self._end_on)
        return self._held

    def _enter(self) -> Record:
        options = self._options
        if isinstance(options.call, str):
            return self._claim()
        again, self._tried = self._tried, True
        if not options.resume:
            return self._create(options.call, again, replace_ended=options.replace_ended)
        with suppress(ConflictError):
            return self._create(options.call, again, replace_ended=False)
        try:
            return self._claim()
        except SessionNotFoundError:  # it was deleted meanwhile
            return self._create(options.call, again, replace_ended=False)
        except SessionEndedError as error:
            if not options.replace_ended:
                raise not_resumed(error, self.id) from error
            return self._create(options.call, again, replace_ended=True)

    def _claim(self) -> Record:
        api = self._calls.api
        features = api.features() if self._options.has_timeouts else ()
        try:
            return api._execute(self._options.claim(api.worker_id, features), None)
        except ConflictError as error:
            raise held_elsewhere(error, self.id) from error
        except SessionEndedError as error:
            raise not_claimable(error, self.id) from error

    def _create(self, state: SessionState, again: bool, *, replace_ended: bool) -> Record:
        if self._calls.redaction is not None:
            state.history = self._calls.redaction.history(state)
        try:
            record = self._save(state, 0)
        except ConflictError as error:
            known = self._find(state.id)
            if not (replace_ended and has_ended(error, known)):
                raise taken(error, state.id, known) from error
            try:  # only the version that has ended: of two workers that try, one gets the id
                record = self._save(state, error.version)
            except ConflictError as other:
                raise taken(other, state.id, self._find(state.id)) from other
        if again:  # the session may be that of an earlier entry, and released or ended since
            claimed = self._claim()
            record.epoch, record.labels = claimed.epoch, claimed.labels
        return record

    def _find(self, session_id: str) -> Record | CallstateError:
        """The session that has the id, or why it can't be read."""
        try:
            return self._calls.api.get(session_id, "none")
        except CallstateError as error:
            return error

    def _save(self, state: SessionState, if_version: int | None) -> Record:
        saved = self._calls.api._execute(self._options.create(state, if_version, self._op), None)
        if saved.epoch is None:  # an older daemon
            return self._calls.api.get(state.id)
        timeout_s = saved.heartbeat_timeout_s or self._options.heartbeat_timeout_s
        labels = dict(self._options.labels or {})
        return Record(state, saved.version, epoch=saved.epoch, heartbeat_timeout_s=timeout_s, labels=labels)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._held = self._held, None
        assert held is not None  # noqa: S101 - entered before it is left
        held.leave(error)
