"""The store as a worker sees it: every public method, once, whoever answers.

SidecarStore sends what these methods ask to the daemon, MemoryStore answers by itself; neither has a say in
names, parameters, checks or decoding, so they can't drift apart.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from callstate_client import asks
from callstate_client.asking import Asking
from callstate_client.beats import Beater
from callstate_client.errors import StoreClosedError
from callstate_client.handle import BeatMode, Hold
from callstate_client.model import SessionState

__all__ = ["CallStore"]


class CallStore(Asking):
    """Keeps the state of live calls. Safe to use from many tasks of one loop.

    Every method raises StoreClosedError after `close()`, a WireError where the daemon says no, NoDaemonError,
    ConnectionLostError or RequestTimeoutError where it says nothing. `timeout_s` is how long one call may take,
    seconds; None for the store's own. Mutations carry an `op`, so one that is sent twice happens once.
    """

    def __init__(self) -> None:
        self._beater = Beater(self.update_heartbeat)
        self._ops = asks.Ops()

    # -- what answers -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """What kind of store it is, for logs."""

    @abstractmethod
    async def update_heartbeat(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Say that this call is alive, touching nothing else of its state.

        Raises:
            SessionNotFoundError, SessionEndedError, FencedError: it is not, or not ours.
        """

    @abstractmethod
    async def default_heartbeat_timeout_s(self) -> float:
        """After how much silence a session without a timeout of its own is suspected, seconds."""

    @abstractmethod
    async def _close(self) -> None:
        """Give up what answers."""

    async def close(self) -> None:
        """Give up the store. May be called twice."""
        await self._beater.close()
        await self._close()

    async def __aenter__(self) -> CallStore:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def new_op(self) -> str:
        """A name for one mutation, like no other's."""
        return self._ops.new()

    # -- the Go package's SessionStore ----------------------------------------------------------------------

    async def save(
        self,
        state: SessionState | None,
        if_version: int | None = None,
        labels: Mapping[str, str] | None = None,
        heartbeat_timeout_s: float | None = None,
        max_duration_s: float | None = None,
        *,
        timeout_s: float | None = None,
    ) -> int | None:
        """Keep this state, whole, under its id, and set its `updated_at`. None is a no-op.

        Args:
            state: what to keep.
            if_version: only if the session has this version; 0: only if there is none yet.
            labels: up to 16 short strings to select calls by; kept as they are where left out.
            heartbeat_timeout_s: silence after which this call is suspected, seconds; same.
            max_duration_s: how long this call may last, seconds; same.

        Returns:
            the new version; None for no state.

        Raises:
            ConflictError: the session has another version.
            SessionEndedError: it was reaped.
            DocumentError: the state was loaded in part, or can't be written as JSON.
        """
        if self.closed:
            raise StoreClosedError
        if state is None:
            return None
        ask = asks.save(state, if_version, labels, heartbeat_timeout_s, max_duration_s, self.new_op())
        return ask.result(await self._send(ask, timeout_s))

    async def delete(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Forget this session; one that does not exist is no error."""
        ask = asks.delete(session_id)
        ask.result(await self._send(ask, timeout_s))

    # -- one call -------------------------------------------------------------------------------------------

    async def add_turn(
        self,
        session_id: str,
        role: str,
        content: str,
        duration_ms: int = 0,
        *,
        at: datetime | None = None,
        extra: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Append a turn, count it, and add its speech time. Gives the new version.

        Args:
            session_id: of the call.
            role: see `Role`.
            content: what was said.
            duration_ms: how long it took to say, milliseconds.
            at: when; default now.
            extra: further members of the turn.
        """
        ask = asks.add_turn(session_id, role, content, duration_ms, at, extra, self.new_op())
        return ask.result(await self._send(ask, timeout_s))

    async def amend_last_turn(
        self,
        session_id: str,
        *,
        content: str | None = None,
        duration_ms: int | None = None,
        extra: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Change the last turn, say to what was spoken of it before the caller cut in. Gives the new version.

        Args:
            session_id: of the call.
            content: what was said; None leaves it.
            duration_ms: how long it took, milliseconds; None leaves it. Speech time is not counted anew.
            extra: members to put beside; None as a value takes one away.

        Raises:
            ConflictError: there is no turn.
        """
        ask = asks.amend_last_turn(session_id, content, duration_ms, extra, self.new_op())
        return ask.result(await self._send(ask, timeout_s))

    async def record_interruption(self, session_id: str, *, timeout_s: float | None = None) -> int:
        """Count one interruption (barge-in). Gives the new version."""
        ask = asks.record_interruption(session_id, self.new_op())
        return ask.result(await self._send(ask, timeout_s))

    async def update(
        self,
        session_id: str,
        if_version: int | None = None,
        *,
        timeout_s: float | None = None,
        **changes: Any,
    ) -> int:
        """Change members of the session, all but its history (a merge patch, RFC 7396). Gives the new version.

        Args:
            session_id: of the call.
            if_version: only if the session has this version.
            changes: members by the names SessionState has (`status`, `from_`, `metrics` …) or new ones; None
                takes one away; a dict patches what is there.

        Raises:
            ConflictError: the session has another version.
        """
        ask = asks.update(session_id, if_version, changes, self.new_op())
        return ask.result(await self._send(ask, timeout_s))

    async def end(
        self, session_id: str, reason: str | None = None, detail: Any = None, *, timeout_s: float | None = None
    ) -> int:
        """The call is over. Ending it again changes nothing. Gives the version.

        Args:
            session_id: of the call.
            reason: a word of the worker's own, up to 64 bytes.
            detail: any JSON beside it.
        """
        ask = asks.end(session_id, reason, detail, self.new_op())
        return ask.result(await self._send(ask, timeout_s))

    def hold(
        self,
        call: SessionState | str,
        *,
        labels: Mapping[str, str] | None = None,
        heartbeat_timeout_s: float | None = None,
        max_duration_s: float | None = None,
        beat: BeatMode = "auto",
        end_on: Iterable[type[BaseException]] = (),
    ) -> Hold:
        """Hold a call for as long as the block lasts: `async with store.hold(...) as call`.

        A normal exit ends the session with reason `completed`; an exception in `end_on` ends it with the
        exception's `reason`, or its name in snake case; any other, and cancellation, releases it. The
        exception goes on in each case.

        Args:
            call: a state, which is created, or the id of a session that is there.
            labels: up to 16 short strings to select calls by; for a new session.
            heartbeat_timeout_s: silence after which the call is suspected, seconds.
            max_duration_s: how long the call may last, seconds; for a new session.
            beat: `"auto"`: heartbeats are sent in the background; `"manual"`: by `call.beat()`.
            end_on: exceptions that mean the call is over.

        Raises:
            ConflictError: on entering: a session of this id is there already.
            SessionNotFoundError, SessionEndedError: on entering by id: there is none, or it is over.
        """
        return Hold(
            self,
            self._beater,
            call,
            labels=labels,
            heartbeat_timeout_s=heartbeat_timeout_s,
            max_duration_s=max_duration_s,
            beat=beat,
            end_on=tuple(end_on),
        )
