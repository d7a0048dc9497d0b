"""The blocking front, for programs without asyncio: WSGI applications, scripts, threads.

from callstate_client.sync import connect

with connect(worker_id="worker-1") as store:
    with store.hold(SessionState("c1", provider="twilio", from_=caller, to=callee)) as call:
        call.add_turn("user", "hello", duration_ms=900)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from typing import Any, Final, TypeVar, Unpack

from callstate_client import protocol, requests
from callstate_client.calls.blocking_hold import HeldCall, Hold
from callstate_client.calls.heartbeat_thread import LEAVE_S, BeatThread
from callstate_client.calls.hold_rules import BeatMode, EndOn
from callstate_client.errors import ConflictError, StoreClosedError
from callstate_client.model.state import SessionState
from callstate_client.protocol import validation
from callstate_client.protocol.patches import Beside, Changes, split_changes
from callstate_client.protocol.results import DrainResult
from callstate_client.requests import Page, PreparedRequest
from callstate_client.store import Record
from callstate_client.transport.backoff import TIMEOUT_S
from callstate_client.transport.blocking import REQUEST_ID
from callstate_client.transport.discovery import candidates
from callstate_client.transport.identity import Identity
from callstate_client.transport.pending import REPEATABLE
from callstate_client.transport.pool import Pool
from callstate_client.uncopied import Uncopied

__all__ = ["HeldCall", "Hold", "Store", "connect"]

BEAT_ANSWERED: Final = b'{"jsonrpc":"2.0","id":%d,"result":{}}\n' % REQUEST_ID
"""The reply to nearly every heartbeat, which so needs no parsing."""

BEATS_KEPT: Final = 4096
"""Sessions whose heartbeat's line is kept ready. A worker holds fewer calls; with the longest ids it is 1.5 MiB."""

ResultT = TypeVar("ResultT")


class Holding:
    """What one process holds by a store; a forked child holds nothing yet."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.calls: dict[str, HeldCall] = {}
        self.entering: set[str] = set()
        self.beats: BeatThread | None = None


class Store(Uncopied):
    """Keeps the state of live calls in the daemon on this host. Made by `connect()`.

    Safe to use from many threads: each call has a connection to itself while it is under way, and takes one
    that is idle; there come to be as many as threads that asked at once. A forked child connects anew.

    The methods are those of the asyncio front's `CallStore`, which describes them, and raise what those raise;
    outside of `hold()` heartbeats are the caller's to send, well within the session's
    `heartbeat_timeout_s`. `timeout_s` is how long one call may take, reconnecting included, seconds; None for
    the store's own. Mutations carry an `op`, so one that is sent twice happens once. `epoch` left out is that of
    the claim by which this store holds the session, where it does.

    Args:
        socket, wait_s, timeout_s, worker_id: see `connect()`.
    """

    instead = "share this one within the process, and make one with connect() in another"

    def __init__(
        self,
        socket: str | os.PathLike[str] | None,
        wait_s: float,
        timeout_s: float,
        worker_id: str | None = None,
    ) -> None:
        self._registers = worker_id is not None
        if worker_id is not None:
            validation.check_worker_id(worker_id)
        self._identities = {os.getpid(): Identity.of(worker_id)}
        self._claimed: dict[int, dict[str, int]] = {}
        places = candidates(socket, os.environ, os.getuid())
        self._pool = Pool(places, timeout_s, self._registered)
        self._held_pool = self._pool if self._registers else Pool(places, timeout_s, lambda: self._identity)
        self._holding: dict[int, Holding] = {}
        self._ops = requests.Ops()
        self._beats: dict[str, bytes] = {}
        self._pool.open(wait_s)

    @property
    def name(self) -> str:
        """`sidecar`."""
        return "sidecar"

    @property
    def path(self) -> str:
        """The socket of the daemon."""
        return self._pool.path

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._pool.closed

    def close(self) -> None:
        """Give up the store. What other threads have under way fails. May be called twice."""
        holding = self._holding.get(os.getpid())
        thread = holding.beats.leave() if holding is not None and holding.beats is not None else None
        self._pool.close()
        self._held_pool.close()
        if thread is not None:
            thread.join(LEAVE_S)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def worker_id(self) -> str:
        """Whom sessions are claimed for. Where `connect()` was given none, the connections are not registered:
        nothing is owned by being created here, and an owner is known by its heartbeats alone. A forked child is
        another worker."""
        return self._identity.worker_id

    @property
    def _identity(self) -> Identity:
        pid = os.getpid()  # asked each time: a fork in C, as uWSGI's, runs no hook of ours
        known = self._identities.get(pid)
        if known is None:
            parent = next(iter(self._identities.values()))
            known = self._identities.setdefault(pid, parent.in_child())
        return known

    @property
    def _epochs(self) -> dict[str, int]:
        """Of the sessions that this process has claimed; not of its parent's."""
        return self._claimed.setdefault(os.getpid(), {})

    def _registered(self) -> Identity | None:
        return self._identity if self._registers else None

    def new_op(self) -> str:
        """A name for one mutation, like no other's."""
        return self._ops.new()

    def request(
        self,
        method: str,
        params: protocol.Params | None = None,
        *,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """PreparedRequest for a verb of the protocol; gives the reply's line, for one of protocol's decoders."""
        if self.closed:
            raise StoreClosedError
        line = protocol.encode_request(REQUEST_ID, method, params)
        return self._exchange(self._pool, line, method, op_of, timeout_s)

    def _exchange(self, pool: Pool, line: bytes, method: str, op_of: str | None, timeout_s: float | None) -> bytes:
        if op_of is not None:
            return pool.mutate(line, op_of, timeout_s)
        return pool.exchange(line, timeout_s, lambda: method in REPEATABLE)

    def _ask(self, ask: PreparedRequest[ResultT], timeout_s: float | None, epoch: int | None = None) -> ResultT:
        requests.fenced(ask, self._epochs.get(ask.op_of or "") if epoch is None else epoch)
        return ask.result(self.request(ask.method, ask.params, op_of=ask.op_of, timeout_s=timeout_s))

    # -- one call -----------------------------------------------------------------------------------------

    def update_heartbeat(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Say that this call is alive, touching nothing else of its state."""
        line = self._beats.get(session_id) or self._new_beat(session_id)
        reply = self._pool.exchange(line, timeout_s)
        if reply != BEAT_ANSWERED:
            protocol.decode_empty(reply)

    def _new_beat(self, session_id: str) -> bytes:
        if self.closed:
            raise StoreClosedError
        ask = requests.heartbeat(session_id)
        if len(self._beats) >= BEATS_KEPT:  # most of them of calls that are long over
            self._beats.clear()
        line = self._beats[session_id] = protocol.encode_request(REQUEST_ID, ask.method, ask.params)
        return line

    def save(
        self,
        state: SessionState | None,
        if_version: int | None = None,
        labels: Mapping[str, str] | None = None,
        heartbeat_timeout_s: float | None = None,
        max_duration_s: float | None = None,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int | None:
        """Keep this state, whole, under its id, and set its `updated_at`. Gives the new version."""
        if self.closed:
            raise StoreClosedError
        if state is None:
            return None
        ask = requests.save(state, if_version, labels, heartbeat_timeout_s, max_duration_s, self.new_op())
        return self._ask(ask, timeout_s, epoch).version

    def load(self, session_id: str, history: str | int = "all", *, timeout_s: float | None = None) -> SessionState:
        """The state under this id, with all its turns, none, or the last so many."""
        return self._ask(requests.load(session_id, history), timeout_s)

    def get(self, session_id: str, history: str | int = "all", *, timeout_s: float | None = None) -> Record:
        """The session with what is known about it beside its document."""
        return self._ask(requests.get(session_id, history), timeout_s)

    def delete(self, session_id: str, *, epoch: int | None = None, timeout_s: float | None = None) -> None:
        """Forget this session and all that is kept of it.

        Raises:
            SessionNotFoundError: there is none.
            FencedError: another worker holds it.
            StoreUnavailableError: it is not in memory, and the store that would know can't be asked.
        """
        self._ask(requests.delete(session_id, self.new_op(), self.features()), timeout_s, epoch)
        self._epochs.pop(session_id, None)

    def add_turn(
        self,
        session_id: str,
        role: str,
        content: str,
        duration_ms: int = 0,
        *,
        at: datetime | None = None,
        extra: dict[str, Any] | None = None,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Append a turn, count it, and add its speech time. Gives the new version."""
        ask = requests.add_turn(session_id, role, content, duration_ms, at, extra, self.new_op())
        return self._ask(ask, timeout_s, epoch)

    def amend_last_turn(
        self,
        session_id: str,
        *,
        content: str | None = None,
        duration_ms: int | None = None,
        extra: dict[str, Any] | None = None,
        role: str | None = None,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Change the last turn, or the last one of a role. Gives the new version."""
        return self.amend_turn(
            session_id,
            content=content,
            duration_ms=duration_ms,
            extra=extra,
            role=role,
            epoch=epoch,
            timeout_s=timeout_s,
        )

    def amend_turn(
        self,
        session_id: str,
        index: int | None = None,
        *,
        content: str | None = None,
        duration_ms: int | None = None,
        extra: dict[str, Any] | None = None,
        role: str | None = None,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Change a turn. Gives the new version."""
        if index is not None or role is not None:
            requests.check_amendable(index, role, self.features())
        ask = requests.amend_turn(session_id, index, role, content, duration_ms, extra, self.new_op())
        return self._ask(ask, timeout_s, epoch)

    def features(self) -> Collection[str]:
        """The optional parts of the protocol that the daemon has."""
        return frozenset(self.info().get("features", ()))

    def record_interruption(
        self, session_id: str, *, epoch: int | None = None, timeout_s: float | None = None
    ) -> int:
        """Count one interruption (barge-in). Gives the new version."""
        return self._ask(requests.record_interruption(session_id, self.new_op()), timeout_s, epoch)

    def update(
        self,
        session_id: str,
        if_version: int | None = None,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
        **changes: Unpack[Changes],
    ) -> int:
        """Change members of the session, all but its history. Gives the new version."""
        patch, beside = split_changes(changes)
        if not beside:
            return self._ask(requests.update(session_id, if_version, patch, self.new_op()), timeout_s, epoch)
        return self._rewrite_head(
            session_id, if_version, patch, beside, self._ask, epoch=epoch, timeout_s=timeout_s
        )

    def _rewrite_head(
        self,
        session_id: str,
        if_version: int | None,
        patch: dict[str, Any],
        beside: Beside,
        send: Callable[[PreparedRequest[int], float | None], int],
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        for left in reversed(range(requests.REWRITES)):
            record = self.get(session_id, "none", timeout_s=timeout_s)
            ask = requests.rewrite_head(record, if_version, patch, beside, epoch, self.new_op())
            try:
                return send(ask, timeout_s)
            except ConflictError:
                if if_version is not None or not left:
                    raise
        raise AssertionError("unreachable")

    def end(
        self,
        session_id: str,
        reason: str | None = None,
        detail: Any = None,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """The call is over. Ending it again changes nothing. Gives the version."""
        version = self._ask(requests.end(session_id, reason, detail, self.new_op()), timeout_s, epoch)
        self._epochs.pop(session_id, None)
        return version

    # -- all sessions -------------------------------------------------------------------------------------

    def list_active(self, scope: str = "host", *, timeout_s: float | None = None) -> list[str]:
        """The ids of all sessions that are there and have not ended.

        Args:
            scope: `"host"`: of this host; `"all"`: of every host, the store is asked too.
            timeout_s: for each page of the answer.

        Raises:
            StoreUnavailableError: `"all"`, and the store can't be asked.
        """
        ids: list[str] = []
        ask: PreparedRequest[Page[str]] | None = requests.list_active(scope)
        while ask is not None:
            page = self._ask(ask, timeout_s)
            ids += page.items
            ask = page.next_page
        return [*dict.fromkeys(ids)]  # of the store's, some may come twice

    def sessions(
        self,
        *,
        status: str | None = None,
        state: str | None = None,
        provider: str | None = None,
        owner: str | None = None,
        call_id: str | None = None,
        ended_since: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        scope: str = "host",
        timeout_s: float | None = None,
    ) -> Iterator[Record]:
        """The sessions that match, without their histories, page by page; see `CallStore.sessions`."""
        if needed := requests.listing_features(state, scope):
            requests.check_listable(self.features(), needed)
        ask: PreparedRequest[Page[Record]] | None = requests.sessions(
            status=status,
            state=state,
            provider=provider,
            owner=owner,
            call_id=call_id,
            ended_since=ended_since,
            labels=labels,
            scope=scope,
        )
        while ask is not None:
            page = self._ask(ask, timeout_s)
            yield from page.items
            ask = page.next_page

    # -- held calls -------------------------------------------------------------------------------------------

    def hold(
        self,
        call: SessionState | str,
        *,
        labels: Mapping[str, str] | None = None,
        heartbeat_timeout_s: float | None = None,
        max_duration_s: float | None = None,
        beat: BeatMode = "auto",
        end_on: EndOn = (),
        steal: bool = False,
        replace_ended: bool = False,
        resume: bool = False,
    ) -> Hold:
        """Hold a call for as long as the block lasts: `with store.hold(...) as call`.

        A normal exit ends the session with reason `completed`; an exception in `end_on`, also within a group, ends
        it with the exception's `reason`, or its name in snake case; any other releases it, for another worker to
        claim. The exception goes on in each case.

        Heartbeats are sent by a thread, one for all calls that the store holds, for as long as the block lasts:
        also while it hangs. The call is this worker's, under a random id where the store was given none. An entry
        that gets no answer may have created or claimed the session, which is then suspected when nobody beats for
        it; entering the same Hold again takes up what was created.

        Args:
            call: a state, which is created, or the id of a session that is there, which is claimed.
            labels: up to 16 short strings to select calls by; for a new session.
            heartbeat_timeout_s: silence after which the call is suspected, seconds.
            max_duration_s: how long the call may last, seconds.
            beat: `"auto"`: heartbeats are sent in the background; `"manual"`: by `call.beat()`.
            end_on: exceptions that mean the call is over: one class, or several.
            steal: claim it also from a worker that is alive.
            replace_ended: where a call under this id has ended, begin it anew in its place.
            resume: where a session of this state's id is there already, claim it.

        Raises:
            ConflictError: on entering: a session of this id is there already; by id: another worker holds it, or
                this store does.
            SessionNotFoundError, SessionEndedError: on entering by id: there is none, or it is over.
        """
        return Hold(
            self,
            call,
            labels=labels,
            heartbeat_timeout_s=heartbeat_timeout_s,
            max_duration_s=max_duration_s,
            beat=beat,
            end_on=end_on,
            steal=steal,
            replace_ended=replace_ended,
            resume=resume,
        )

    @property
    def _ours(self) -> Holding:
        return self._holding.setdefault(os.getpid(), Holding())

    @contextmanager
    def _entering(self, session_id: str) -> Iterator[None]:
        """A call is about to be held, by one block only.

        Raises:
            ConflictError: this store holds it.
        """
        ours = self._ours
        with ours.lock:
            held = ours.calls.get(session_id)
            if session_id in ours.entering or (held is not None and held.lost is None):
                raise ConflictError(f"{session_id} is held by this store already", owner=self.worker_id)
            ours.entering.add(session_id)
        try:
            yield
        finally:
            ours.entering.discard(session_id)

    def _hold(self, call: HeldCall) -> None:
        self._ours.calls[call.id] = call
        self._epochs[call.id] = call.epoch

    def _let_go(self, call: HeldCall) -> None:
        if self._ours.calls.get(call.id) is call:
            del self._ours.calls[call.id]
            self._epochs.pop(call.id, None)

    def _ask_held(self, ask: PreparedRequest[ResultT], timeout_s: float | None) -> ResultT:
        """PreparedRequest as the worker that holds the call, also where the store as such is none."""
        if self.closed:
            raise StoreClosedError
        line = protocol.encode_request(REQUEST_ID, ask.method, ask.params)
        return ask.result(self._exchange(self._held_pool, line, ask.method, ask.op_of, timeout_s))

    def _beat_thread(self) -> BeatThread:
        ours = self._ours
        with ours.lock:
            if ours.beats is None:
                ours.beats = BeatThread(lambda: self._held_pool.places, self._introduction)
            return ours.beats

    def _introduction(self) -> protocol.RegisterParams:
        return self._identity.introduction(self.features())

    def _claim_timeouts(
        self, heartbeat_timeout_s: float | None, max_duration_s: float | None
    ) -> tuple[float | None, float | None]:
        """Those that a claim may give: a daemon of an earlier version takes none."""
        given = heartbeat_timeout_s, max_duration_s
        if given != (None, None) and protocol.CLAIM_TIMEOUTS not in self.features():
            return None, None
        return given

    # -- who holds a call -----------------------------------------------------------------------------------

    def claim(
        self, session_id: str, *, steal: bool = False, history: str | int = "all", timeout_s: float | None = None
    ) -> Record:
        """Hold this session from now on; to be beaten for."""
        return self._held(self._ask(requests.claim(session_id, self.worker_id, history, steal=steal), timeout_s))

    def _held(self, record: Record) -> Record:
        """Remember the epoch of a claim: what another claims later takes nothing of ours."""
        self._epochs[record.state.id] = record.epoch
        return record

    def claim_next(
        self, labels: Mapping[str, str] | None = None, history: str | int = "all", *, timeout_s: float | None = None
    ) -> Record | None:
        """Hold any session whose worker is gone; None where there is none."""
        record = self._ask(requests.claim_next(self.worker_id, labels, history), timeout_s)
        return None if record is None else self._held(record)

    def release(self, session_id: str, epoch: int, *, timeout_s: float | None = None) -> None:
        """Hold this session no more."""
        self._ask(requests.release(session_id, epoch), timeout_s)
        self._epochs.pop(session_id, None)

    def drain(self, on: bool = True, *, timeout_s: float | None = None) -> DrainResult:
        """Let the host run out of calls, or take new ones again."""
        return self._ask(requests.drain(on), timeout_s)

    # -- the store itself ---------------------------------------------------------------------------------

    def flush(
        self, session_ids: Sequence[str] | None = None, timeout_s: float = requests.FLUSH_S
    ) -> protocol.FlushResult:
        """Return when the store behind has these sessions, or all: the barrier."""
        return self._ask(requests.flush(session_ids, timeout_s), timeout_s + requests.FLUSH_MARGIN_S)

    def stats(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the store counts, as `server.stats` gives it."""
        return self._ask(requests.STATS, timeout_s)

    def info(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the store is, as `server.info` gives it."""
        return self._ask(requests.INFO, timeout_s)

    def ping(self, *, timeout_s: float | None = None) -> None:
        """Return once the store has answered."""
        self._ask(requests.PING, timeout_s)


def connect(
    socket: str | os.PathLike[str] | None = None,
    wait_s: float = 5.0,
    *,
    timeout_s: float = TIMEOUT_S,
    worker_id: str | None = None,
) -> Store:
    """The store of the daemon on this host: `with connect() as store`, or `store = connect()` and `close()`.

    Args:
        socket: the daemon's; default `CALLSTATE_SOCKET`, else the first that exists of
            `$XDG_RUNTIME_DIR/callstate.sock`, `/run/callstate/callstate.sock` and
            `/tmp/callstate-<uid>/callstate.sock`.
        wait_s: how long to wait for a daemon that is not there yet, seconds; 0 tries once.
        timeout_s: how long each call waits for its reply, seconds.
        worker_id: be this worker, which owns the calls that it creates and claims; 1 to 64 bytes of printable ASCII
            without spaces. Its process is watched: when it dies, its calls are there to be recovered at once. None:
            no worker, as an operator's tool or a simple script.

    Raises:
        NoDaemonError: none was found; the text lists each path tried and why not.
        InvalidParamsError: this is no worker id, or none that the daemon takes. At once, as the next.
        ConflictError: another process is known under this worker id, and lives.
        UnsupportedProtocolError: the daemon speaks another version of the protocol.
    """
    return Store(socket, wait_s, timeout_s, worker_id)
