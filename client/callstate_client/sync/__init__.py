"""The blocking front, for programs without asyncio: WSGI applications, scripts, threads.

    from callstate_client.sync import connect

    with connect(worker_id="worker-1") as store:
        with store.hold(SessionState("c1", provider="twilio", from_=caller, to=callee)) as call:
            call.add_turn("user", "hello", duration_ms=900)

The methods of a store are in `session_api`, which is generated from the asyncio front. What differs by nature is
written by hand: `requester` sends a request and waits for the reply, `hold` and `held_call` hold calls, `recovery`
takes over those of dead workers.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from threading import Event
from typing import Final, TypeVar, overload

from callstate_client.calls.heartbeats.thread import LEAVE_S
from callstate_client.calls.hold_rules import BeatMode, EndOn, HoldOptions, end_classes
from callstate_client.calls.recovery.retries import CONCURRENCY, MAX_ATTEMPTS
from callstate_client.model.state import SessionState
from callstate_client.requests import BeforeSend, PreparedRequest, Redaction, validation
from callstate_client.store import Record
from callstate_client.sync.held_call import HeldCall
from callstate_client.sync.hold import HeldCalls, Hold
from callstate_client.sync.recovery import POLL_S, Handler, Recovery
from callstate_client.sync.requester import PerProcess
from callstate_client.sync.session_api import SessionApi
from callstate_client.telemetry import Telemetry
from callstate_client.transport.backoff import TIMEOUT_S
from callstate_client.transport.discovery import candidates
from callstate_client.transport.identity import Identity
from callstate_client.transport.pool import Pool

__all__ = ["HeldCall", "Hold", "Store", "connect"]

CLAIM_CHANGES: Final = frozenset(
    ("session.claim", "session.claim_next", "session.release", "session.end", "session.delete")
)
"""Verbs after which this process holds a session, or no longer does."""

ResultT = TypeVar("ResultT")


class Store(SessionApi):
    """Keeps the state of live calls in the daemon on this host. Made by `connect()`.

    Safe to use from many threads: each request has a connection of its own, idle or new, so there are as many
    connections as threads that send at the same time. A forked child connects again.

    The methods are those of the asyncio front's `CallStore`, and raise the same errors: StoreClosedError after
    `close()`, a WireError if the daemon refuses, NoDaemonError, ConnectionLostError or RequestTimeoutError if it
    does not answer. Outside of `hold()` the caller sends the heartbeats, well within the session's
    `heartbeat_timeout_s`. `timeout_s` is how long one method may take, reconnecting included, seconds; None for the
    store's own. Mutations carry an `op`, so one that is sent twice takes effect once. `epoch` defaults to that of
    the claim by which this process holds the session, if any.

    Args:
        socket, wait_s, timeout_s, worker_id, before_send, telemetry: see `connect()`.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None,
        wait_s: float,
        timeout_s: float,
        worker_id: str | None = None,
        before_send: BeforeSend | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        if worker_id is not None:
            validation.check_worker_id(worker_id)
        own = Identity.of(worker_id)
        identity = PerProcess(own, own.in_child)
        places = candidates(socket, os.environ, os.getuid())
        workers_pool = Pool(places, timeout_s, identity.get)
        super().__init__(Pool(places, timeout_s) if worker_id is None else workers_pool, identity)
        self._redaction = Redaction.of(before_send)
        self._observe(telemetry)
        self._epochs: PerProcess[dict[str, int]] = PerProcess({}, dict)
        self._workers_pool = workers_pool
        api = SessionApi(workers_pool, identity)
        api._observe(telemetry)
        self._held_calls = HeldCalls(api, workers_pool, identity, self._epochs, self._redaction)
        self._pool.open(wait_s)

    @property
    def name(self) -> str:
        """`sidecar`."""
        return "sidecar"

    @property
    def path(self) -> str:
        """The socket of the daemon."""
        return self._pool.path

    def close(self) -> None:
        """Close all connections; requests of other threads fail with StoreClosedError. May be called twice."""
        heartbeats = self._held_calls.stop_heartbeats()
        self._pool.close()
        self._workers_pool.close()
        if heartbeats is not None:
            heartbeats.join(LEAVE_S)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _execute(
        self, request: PreparedRequest[ResultT], timeout_s: float | None, epoch: int | None = None
    ) -> ResultT:
        epochs = self._epochs.get()
        if epoch is None and request.op_of is not None:
            epoch = epochs.get(request.op_of)
        result = super()._execute(request, timeout_s, epoch)
        if request.method in CLAIM_CHANGES:
            if isinstance(result, Record):
                epochs[result.state.id] = result.epoch
            else:  # a `claim_next` that found nothing has no session id
                epochs.pop(getattr(request.params, "session_id", ""), None)
        return result

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

        Without an exception the session ends with reason `completed`; an exception in `end_on`, also within a
        group, ends it with the exception's `reason`, or its name in snake case; any other releases it, for another
        worker to claim. The exception propagates in each case.

        Heartbeats are sent by one thread for all calls that the store holds, for as long as the block lasts, even
        while it hangs. The call is held under this store's worker id, a random one if `connect()` was given none.
        An entry that gets no answer may have created or claimed the session, which becomes suspect if no heartbeat
        follows; entering the same Hold again takes over what was created.

        Args:
            call: a state, which is created, as `active` unless it was given a status; or the id of an existing
                session, which is claimed and keeps its status.
            labels: up to 16 short strings to select calls by; for a new session.
            heartbeat_timeout_s: how long the call may go without a heartbeat before it becomes suspect, seconds.
            max_duration_s: how long the call may last, seconds.
            beat: `"auto"`: the thread sends heartbeats; `"manual"`: you send them by `call.beat()`.
            end_on: exceptions that mean the call is over: one class, or several.
            steal: claim it even from a live worker.
            replace_ended: if the call with this id has ended, create a new one in its place.
            resume: create or claim, whichever fits: an existing session with this state's id is claimed if it has
                no live owner, or belongs to this worker (a block of this store that still holds it then loses it).
                Of the arguments only the timeouts are applied to it.

        Raises:
            ConflictError: on entry: a session with this id exists, or can't be taken over with `resume`; by id:
                another worker holds it, or this store does.
            SessionNotFoundError, SessionEndedError: on entry by id: there is no such session, or it has ended.
        """
        options = HoldOptions(
            call=call,
            labels=labels,
            heartbeat_timeout_s=heartbeat_timeout_s,
            max_duration_s=max_duration_s,
            beat=beat,
            end_on=end_on,
            steal=steal,
            replace_ended=replace_ended,
            resume=resume,
        )
        return Hold(self._held_calls, options)

    @overload
    def recover(
        self,
        handler: None = None,
        *,
        labels: Mapping[str, str] | None = None,
        watch: bool = False,
        stop: Event | None = None,
        poll_s: float = POLL_S,
    ) -> Generator[HeldCall, None, None]: ...

    @overload
    def recover(
        self,
        handler: Handler,
        *,
        labels: Mapping[str, str] | None = None,
        watch: bool = False,
        concurrency: int = CONCURRENCY,
        max_attempts: int | None = MAX_ATTEMPTS,
        end_on: EndOn = (),
        stop: Event | None = None,
        poll_s: float = POLL_S,
    ) -> None: ...

    def recover(
        self,
        handler: Handler | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        watch: bool = False,
        concurrency: int = CONCURRENCY,
        max_attempts: int | None = MAX_ATTEMPTS,
        end_on: EndOn = (),
        stop: Event | None = None,
        poll_s: float = POLL_S,
    ) -> Generator[HeldCall, None, None] | None:
        """Take over the calls of dead workers: `store.recover(handler, watch=True)`.

        `handler(call)` runs in a thread of its own for each, in the call's block: by the rules of `hold()` the call
        ends when the handler returns, and is released when it raises, to be tried again after a pause that grows.
        `recover` returns when all handlers have returned. If it is interrupted, for example by Ctrl-C, it releases
        their calls, which the handlers find lost.

        Without a handler, `for call in store.recover(): …` gives calls that are held, each to be left by `with
        call:`, which ends it, or by `call.release()`; one that is dropped instead gets no more heartbeats. The next
        one is claimed when the loop asks for it.

        Args:
            handler: continues a call.
            labels: only calls that have all of these.
            watch: continue until `stop` is set or the store closed, waiting for more.
            concurrency: how many handlers run at once; calls beyond that are left to other workers.
            max_attempts: a call whose handler raises, and which was claimed this often in a row, by any worker,
                each time for less than a minute, is released and ignored from then on. None: no limit.
            end_on: exceptions of the handler that mean the call is over, see `hold()`.
            stop: once it is set, no more calls are claimed; those being handled continue.
            poll_s: how often to look for more calls, seconds.
        """
        stopped = Event() if stop is None else stop
        recovery = Recovery(self._held_calls, labels, watch=watch, stop=stopped, poll_s=poll_s)
        if handler is None:
            return recovery.calls()
        recovery.run(handler, concurrency, max_attempts, end_classes(end_on))
        return None


def connect(
    socket: str | os.PathLike[str] | None = None,
    worker_id: str | None = None,
    wait_s: float = 5.0,
    *,
    timeout_s: float = TIMEOUT_S,
    before_send: BeforeSend | None = None,
    telemetry: Telemetry | None = None,
) -> Store:
    """The store of the daemon on this host: `with connect() as store`, or `store = connect()` and `close()`.

    Args:
        socket: the daemon's; default `CALLSTATE_SOCKET`, else the first that exists of
            `$XDG_RUNTIME_DIR/callstate.sock`, `/run/callstate/callstate.sock` and
            `/tmp/callstate-<uid>/callstate.sock`.
        worker_id: be this worker, which owns the calls that it creates and claims; 1 to 64 bytes of printable ASCII
            without spaces. Its process is watched: when it dies, its calls can be recovered at once. None: no
            worker, like an operator's tool or a simple script.
        wait_s: how long to wait for a daemon that does not listen yet, seconds; 0 tries once.
        timeout_s: how long each call waits for its reply, seconds.
        before_send: gets a session's id and a copy of each turn before it is sent, and returns the turn to send in
            its place, for example without card numbers. If it raises, the turn is not sent: BeforeSendError.
        telemetry: what requests and calls are reported to, such as `callstate_client.otel.OpenTelemetry()`.

    Raises:
        NoDaemonError: none was found; the text lists each path tried and why it could not be used.
        InvalidParamsError: this is not a worker id, or not one that the daemon accepts. At once, as the next two.
        ConflictError: another live process is registered under this worker id.
        UnsupportedProtocolError: the daemon speaks another version of the protocol.
        ValueError: one of the durations is negative, or not a number.
    """
    validation.check_waits(wait_s=wait_s, timeout_s=timeout_s)
    return Store(socket, wait_s, timeout_s, worker_id, before_send, telemetry)
