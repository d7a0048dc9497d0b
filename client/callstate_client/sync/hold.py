"""`store.hold()` of the blocking front: creates or claims a call on entering, ends or releases it on leaving.

A store holds a call in one block at a time: a second one is refused. A forked child holds none of its parent's
calls. One thread sends the heartbeats of all calls of a store; it starts with the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from types import TracebackType

from callstate_client import requests
from callstate_client.calls.heartbeat_thread import HeartbeatThread
from callstate_client.calls.hold_rules import (
    BeatMode,
    EndOn,
    check_hold,
    claim_timeouts,
    end_classes,
    has_ended,
    taken,
)
from callstate_client.errors import ConflictError, SessionEndedError, SessionNotFoundError
from callstate_client.model.state import SessionState
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
        self.lock = Lock()
        self.calls: dict[str, HeldCall] = {}
        self.entering: set[str] = set()
        self.heartbeats: HeartbeatThread | None = None


class HeldCalls:
    """The calls that the blocks of one store hold.

    Args:
        api: sends requests as the store's worker, over connections that are registered for it.
        pool: those connections.
        identity: what they register with.
        epochs: of the sessions that the store holds, by their ids; those of held calls are added.
    """

    def __init__(
        self, api: SessionApi, pool: Pool, identity: PerProcess[Identity], epochs: PerProcess[dict[str, int]]
    ) -> None:
        self.api = api
        self._pool = pool
        self._identity = identity
        self._epochs = epochs
        self._holding = PerProcess(_Holding(), _Holding)

    @contextmanager
    def entering(self, session_id: str) -> Iterator[None]:
        """Reserve a session for the block that is about to hold it.

        Raises:
            ConflictError: another block of this store holds it, or is about to.
        """
        ours = self._holding.get()
        with ours.lock:
            held = ours.calls.get(session_id)
            if session_id in ours.entering or (held is not None and held.lost is None):
                raise ConflictError(f"{session_id} is held by this store already", owner=self.api.worker_id)
            ours.entering.add(session_id)
        try:
            yield
        finally:
            ours.entering.discard(session_id)

    def hold(self, record: Record, beat: BeatMode, end_on: EndOn) -> HeldCall:
        """Hold a session that was just created or claimed, until it is released.

        Args:
            record: the session.
            beat, end_on: see `Store.hold`.
        """
        heartbeats = self._heartbeats() if beat == "auto" else None
        call = HeldCall(self.api, record, heartbeats, end_on, self._discard)
        self._holding.get().calls[call.id] = call
        self._epochs.get()[call.id] = call.epoch
        return call

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
        """Send no more heartbeats; gives the thread that sent them, which ends at once."""
        heartbeats = self._holding.get().heartbeats
        return None if heartbeats is None else heartbeats.leave()


class Hold(Uncopied):
    """What `store.hold()` gives: creates or claims the session on entering, ends or releases it on leaving.

    The same Hold entered again after an entry that got no answer takes up what that one may have created.
    """

    instead = "call hold() again"

    def __init__(
        self,
        calls: HeldCalls,
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
        self._calls = calls
        self._call = call
        self._labels = labels
        self._timeouts = heartbeat_timeout_s, max_duration_s
        self._beat: BeatMode = beat
        self._end_on = end_classes(end_on)
        self._steal = steal
        self._replace_ended = replace_ended
        self._resume = resume
        self._op = calls.api.new_op()
        self._tried = False
        self._held: HeldCall | None = None

    @property
    def id(self) -> str:
        """The session's id."""
        return self._call if isinstance(self._call, str) else self._call.id

    def __enter__(self) -> HeldCall:
        if self._held is not None:
            raise RuntimeError(f"{self.id} is held by this block already")
        with self._calls.entering(self.id):
            self._held = self._calls.hold(self._enter(), self._beat, self._end_on)
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
        except SessionNotFoundError:  # deleted since: it is a new one after all
            return self._create(self._call, again, replace_ended=False)
        except SessionEndedError:
            if not self._replace_ended:
                raise
            return self._create(self._call, again, replace_ended=True)

    def _claim(self, session_id: str) -> Record:
        api = self._calls.api
        timeouts = self._timeouts
        if timeouts != (None, None):
            timeouts = claim_timeouts(*timeouts, api.features())
        request = requests.claim(
            session_id,
            api.worker_id,
            "all",
            steal=self._steal,
            heartbeat_timeout_s=timeouts[0],
            max_duration_s=timeouts[1],
        )
        return api._execute(request, None)

    def _create(self, state: SessionState, again: bool, *, replace_ended: bool) -> Record:
        try:
            record = self._save(state, 0, self._labels)
        except ConflictError as error:
            known = self._calls.api.get(state.id, "none")
            if not (replace_ended and has_ended(error, known)):
                raise taken(error, state.id, known) from error
            # of the version that has ended: of two who do this one gets the id
            record = self._save(state, error.version or known.version, self._labels or {})
        if again:  # it may be the session of the entry before, which has been released or ended since
            record.epoch = self._claim(state.id).epoch
        return record

    def _save(self, state: SessionState, if_version: int, labels: Mapping[str, str] | None) -> Record:
        saved = self._calls.api._execute(requests.save(state, if_version, labels, *self._timeouts, self._op), None)
        if saved.epoch is None:  # an older daemon
            return self._calls.api.get(state.id)
        timeout_s = saved.heartbeat_timeout_s or self._timeouts[0]
        return Record(state, saved.version, epoch=saved.epoch, heartbeat_timeout_s=timeout_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._held = self._held, None
        assert held is not None  # noqa: S101 - entered before it is left
        held.leave(error)
