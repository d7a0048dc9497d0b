"""The store as a worker sees it: every public method, once, whoever answers.

SidecarStore sends what these methods ask to the daemon, MemoryStore answers by itself; neither has a say in
names, parameters, checks or decoding, so they can't drift apart.
"""

from __future__ import annotations

import os
import secrets
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import count
from typing import Any

import msgspec

from callstate_client import checks, protocol
from callstate_client.asking import Asking
from callstate_client.beats import Beater
from callstate_client.errors import StoreClosedError
from callstate_client.handle import BeatMode, Hold
from callstate_client.history import Turn
from callstate_client.model import SessionState, encode_members
from callstate_client.patches import head_patch, turn_patch
from callstate_client.times import now, parse_time

__all__ = ["CallStore"]


class CallStore(Asking):
    """Keeps the state of live calls. Safe to use from many tasks of one loop.

    Every method raises StoreClosedError after `close()`, a WireError where the daemon says no, NoDaemonError,
    ConnectionLostError or RequestTimeoutError where it says nothing. `timeout_s` is how long one call may take,
    seconds; None for the store's own. Mutations carry an `op`, so one that is sent twice happens once.
    """

    def __init__(self) -> None:
        self._beater = Beater(self.update_heartbeat)
        self._op_prefix = secrets.token_hex(8)
        self._op_count = count(1)

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
        """A name for one mutation, like no other's: the pid is in it because a fork copies prefix and count."""
        return f"{self._op_prefix}.{os.getpid():x}.{next(self._op_count):x}"

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
        checks.check_state(state)
        line = await self.request(
            "session.save",
            protocol.SaveParams(
                session=msgspec.Raw(state.to_json()),
                if_version=if_version,
                labels=None if labels is None else dict(labels),
                heartbeat_timeout_s=heartbeat_timeout_s,
                max_duration_s=max_duration_s,
                op=self.new_op(),
            ),
            op_of=state.id,
            timeout_s=timeout_s,
        )
        result = protocol.decode_save(line)
        state.updated_at = parse_time(result.updated_at)
        return result.version

    async def delete(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Forget this session; one that does not exist is no error."""
        checks.check_session_id(session_id)
        params = protocol.DeleteParams(session_id=session_id)
        protocol.decode_empty(await self.request("session.delete", params, timeout_s=timeout_s))

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
        turn = Turn(role, content, timestamp=at or now(), duration_ms=duration_ms, extra=extra)
        checks.check_turn(turn)
        params = protocol.AddTurnParams(
            session_id=session_id, turn=msgspec.Raw(encode_members(turn.to_dict())), op=self.new_op()
        )
        return await self._mutate("session.add_turn", params, timeout_s)

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
        patch = turn_patch(content, duration_ms, extra)
        params = protocol.AmendTurnParams(
            session_id=session_id, set=msgspec.Raw(encode_members(patch)), op=self.new_op()
        )
        return await self._mutate("session.amend_turn", params, timeout_s)

    async def record_interruption(self, session_id: str, *, timeout_s: float | None = None) -> int:
        """Count one interruption (barge-in). Gives the new version."""
        params = protocol.RecordInterruptionParams(session_id=session_id, op=self.new_op())
        return await self._mutate("session.record_interruption", params, timeout_s)

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
        patch = head_patch(changes)
        params = protocol.UpdateParams(
            session_id=session_id,
            set=msgspec.Raw(encode_members(patch)),
            if_version=if_version,
            op=self.new_op(),
        )
        return await self._mutate("session.update", params, timeout_s)

    async def end(
        self, session_id: str, reason: str | None = None, detail: Any = None, *, timeout_s: float | None = None
    ) -> int:
        """The call is over. Ending it again changes nothing. Gives the version.

        Args:
            session_id: of the call.
            reason: a word of the worker's own, up to 64 bytes.
            detail: any JSON beside it.
        """
        params = protocol.EndParams(session_id=session_id, reason=reason, op=self.new_op())
        if detail is not None:
            checks.check_free(detail, "detail")
            params.detail = msgspec.Raw(encode_members(detail))
        return await self._mutate("session.end", params, timeout_s)

    async def _mutate(self, method: str, params: protocol.Mutation, timeout_s: float | None) -> int:
        checks.check_session_id(params.session_id)
        line = await self.request(method, params, op_of=params.session_id, timeout_s=timeout_s)
        return protocol.decode_version(line).version

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
