"""`store.recover()` of the blocking front: the calls of workers that died, each handled in a thread of its own.

There is no subscription to events here: a run that watches asks the daemon once a second, which costs it
microseconds, while a lost call may be claimed for tens of seconds. Threads can't be cancelled: a run that is
interrupted releases the calls of its handlers, which find them lost.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from threading import BoundedSemaphore, Event, Thread
from typing import Final

from callstate_client.calls.hold_rules import ended_by
from callstate_client.calls.recovery.retries import Retries
from callstate_client.errors import (
    CallstateError,
    ConflictError,
    SessionEndedError,
    SessionNotFoundError,
    ShuttingDownError,
    StoreClosedError,
)
from callstate_client.store import Record
from callstate_client.sync.held_call import HeldCall
from callstate_client.sync.hold import HeldCalls
from callstate_client.transport.backoff import RECOVER, Backoff

__all__ = ["POLL_S", "Handler", "Recovery"]

_log = logging.getLogger("callstate")

Handler = Callable[[HeldCall], object]
"""Continues a recovered call."""

POLL_S: Final = 1.0
"""How often a run that watches looks for calls, seconds: a fraction of the grace period (`reaper.grace_s`, 30)."""


class Recovery:
    """One run of `recover()`.

    Args:
        held: the calls of the store; claimed ones are added to it.
        labels: only calls that have all of these.
        watch: continue until `stop` is set.
        stop: once it is set, no more calls are claimed.
        poll_s: how often to look for calls, seconds.
    """

    def __init__(
        self, held: HeldCalls, labels: Mapping[str, str] | None, *, watch: bool, stop: Event, poll_s: float
    ) -> None:
        self._held = held
        self._api = held.api
        self._labels = labels
        self._watch = watch
        self._stop = stop
        self._poll_s = poll_s
        self._retries: Retries[HeldCall] = Retries(watch=watch)

    # -- with a handler -------------------------------------------------------------------------------------

    def run(
        self,
        handler: Handler,
        concurrency: int,
        max_attempts: int | None,
        end_on: tuple[type[BaseException], ...],
    ) -> None:
        """Run a handler for each call; see `Store.recover`."""
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {concurrency!r}")
        slots = BoundedSemaphore(concurrency)
        running: dict[Thread, HeldCall] = {}

        def handle(call: HeldCall) -> None:
            try:
                self._handle(handler, call, max_attempts)
            finally:
                slots.release()

        try:
            with closing(self.calls()) as calls:
                while self._has_slot(slots):  # before claiming: another worker may have a free one
                    call = next(calls, None)
                    if call is None:
                        break
                    call.end_on = end_on
                    thread = Thread(target=handle, args=(call,), name=f"callstate-recover-{call.id}", daemon=True)
                    running = {each: its for each, its in running.items() if each.is_alive()} | {thread: call}
                    thread.start()
            for thread in running:
                thread.join()
        except BaseException:
            for call in running.values():
                call.give_back(ShuttingDownError(f"{call.id} was released: recover() was interrupted"))
            raise

    def _has_slot(self, slots: BoundedSemaphore) -> bool:
        while not slots.acquire(timeout=self._poll_s):
            if self._is_over:
                return False
        return True

    def _handle(self, handler: Handler, call: HeldCall, max_attempts: int | None) -> None:
        try:
            with call:
                try:
                    handler(call)
                except Exception as error:
                    if ended_by(error, call.end_on) is None:
                        self._retries.abandon_if_hopeless(call, error, max_attempts)
                    raise
        except Exception as error:  # noqa: BLE001 - the other calls continue in any case
            if ended_by(error, call.end_on) is None:
                _log.exception("%s was recovered, and its handler failed", call.id)

    # -- one by one -----------------------------------------------------------------------------------------

    @property
    def _is_over(self) -> bool:
        return self._stop.is_set() or self._api.closed

    def calls(self) -> Generator[HeldCall, None, None]:
        """The calls, each held."""
        backoff = Backoff(RECOVER)
        try:
            while not self._is_over:
                try:
                    record = self._held.claim_new(self._claim_any)
                except StoreClosedError:
                    return
                except CallstateError as error:
                    if not (self._watch and error.retryable):
                        raise
                    self._stop.wait(backoff.pause_s())
                    continue
                backoff.reset()
                if record is not None:
                    call = self._hold(record)
                elif self._watch:
                    call = self._wait()
                else:
                    return
                if call is not None:
                    yield call
        finally:
            while self._retries:
                with suppress(CallstateError):
                    self._retries.take().release()

    def _hold(self, record: Record) -> HeldCall | None:
        """Hold a call that was claimed; None if it is held back."""
        call = self._held.hold(record, "auto", ())
        if self._api._telemetry is not None:
            self._api._telemetry.call_recovered()
        return None if self._retries.hold_back(call) else call

    def _wait(self) -> HeldCall | None:
        """Wait a while for calls; returns one that was held back, if it is due."""
        due_s = self._retries.due_in_s()
        poll_s = self._poll_s * random.uniform(0.5, 1.0)  # not in step with other recoverers
        self._stop.wait(poll_s if due_s is None else min(poll_s, due_s))
        if self._is_over or self._retries.due_in_s() != 0:
            return None
        call = self._retries.take()
        return call if call.lost is None else None

    def _claim_any(self) -> Record | None:
        if not self._retries.has_abandoned:
            return self._api.claim_next(self._labels)
        for state in ("orphan", "suspect"):  # claim_next might return what was abandoned
            for found in self._api.sessions(state=state, labels=self._labels):
                if not self._retries.is_abandoned(found.state.id):
                    with suppress(ConflictError, SessionEndedError, SessionNotFoundError):  # another was faster
                        return self._api.claim(found.state.id)
        return None
