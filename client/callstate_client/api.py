"""The store as a worker sees it: every public method, once, whoever answers.

SidecarStore sends what these methods ask to the daemon, MemoryStore answers by itself; neither has a say in
names, parameters, checks or decoding, so they can't drift apart.
"""

from __future__ import annotations

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any, Final

import msgspec

from callstate_client import checks, protocol
from callstate_client.beats import Beater
from callstate_client.errors import StoreClosedError
from callstate_client.handle import BeatMode, Hold
from callstate_client.history import Turn
from callstate_client.model import SessionState, encode_members
from callstate_client.patches import head_patch, turn_patch
from callstate_client.protocol import LoadResult
from callstate_client.store import Record
from callstate_client.times import format_time, now, parse_time

__all__ = ["CallStore"]

FLUSH_S: Final = 10.0
"""How long a flush is tried, seconds; the store behind is written to five times a second while it is up."""

FLUSH_MARGIN_S: Final = 5.0
"""A flush is the daemon's to give up; the client waits so much longer, to hear how much it flushed."""


def to_record(result: LoadResult[SessionState]) -> Record:
    """What a load's result says."""
    return Record(
        state=result.session,
        version=result.version,
        epoch=result.epoch,
        owner=result.owner,
        ended_reason=result.ended_reason or None,
        labels=result.labels,
        history_from=result.session.history_from,
        turn_count=result.turn_count,
    )


class CallStore(ABC):
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
    def request(
        self,
        method: str,
        params: protocol.Params | None = None,
        *,
        op_of: str | None = None,
        timeout_s: float | None = None,
    ) -> Awaitable[bytes]:
        """Ask for a verb of the protocol; gives the reply's line, for one of protocol's decoders.

        Args:
            method: the verb.
            params: of the verb's class.
            op_of: for a mutation with an `op`, the session that remembers it: it may be sent twice.
            timeout_s: seconds; None for the store's own.
        """

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

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether `close()` was called."""

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

    async def load(
        self, session_id: str, history: str | int = "all", *, timeout_s: float | None = None
    ) -> SessionState:
        """The state under this id, `updated_at` being the later of the last change and the last heartbeat.

        Args:
            session_id: of the call.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            SessionNotFoundError: there is none.
        """
        return (await self._load(session_id, history, timeout_s)).session

    async def delete(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Forget this session; one that does not exist is no error."""
        checks.check_session_id(session_id)
        params = protocol.DeleteParams(session_id=session_id)
        protocol.decode_empty(await self.request("session.delete", params, timeout_s=timeout_s))

    async def list_active(self, *, timeout_s: float | None = None) -> list[str]:
        """The ids of all sessions that are there and have not ended."""
        ids: list[str] = []
        cursor: str | None = None
        while True:
            params = protocol.ListActiveParams(cursor=cursor)
            line = await self.request("session.list_active", params, timeout_s=timeout_s)
            page = protocol.decode_list_active(line)
            ids += page.session_ids
            cursor = page.next_cursor
            if not cursor:
                return ids

    async def ping(self, *, timeout_s: float | None = None) -> None:
        """Return once the store has answered."""
        protocol.decode_members(await self.request("server.ping", timeout_s=timeout_s))

    # -- one call -------------------------------------------------------------------------------------------

    async def get(self, session_id: str, history: str | int = "all", *, timeout_s: float | None = None) -> Record:
        """The session with what is known about it beside its document.

        Args:
            session_id: of the call.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            SessionNotFoundError: there is none.
        """
        return to_record(await self._load(session_id, history, timeout_s))

    async def _load(self, session_id: str, history: str | int, timeout_s: float | None) -> LoadResult[SessionState]:
        checks.check_session_id(session_id)
        params = protocol.LoadParams(session_id=session_id, history=history)
        return protocol.decode_load(await self.request("session.load", params, timeout_s=timeout_s))

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

    # -- all calls ------------------------------------------------------------------------------------------

    async def sessions(
        self,
        *,
        status: str | None = None,
        provider: str | None = None,
        owner: str | None = None,
        call_id: str | None = None,
        ended_since: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Record]:
        """The hot sessions that match, without their histories, page by page as they are asked for.

        Args:
            status, provider, owner, call_id: match where equal.
            ended_since: only those that ended then or later; with a timezone.
            labels: all of them must be there.
        """
        since = None if ended_since is None else format_time(ended_since)
        cursor: str | None = None
        while True:
            params = protocol.ListParams(
                status=status,
                provider=provider,
                owner=owner,
                call_id=call_id,
                labels=None if labels is None else dict(labels),
                ended_since=since,
                cursor=cursor,
            )
            page = protocol.decode_list(await self.request("session.list", params, timeout_s=timeout_s))
            for result in page.sessions:
                yield to_record(protocol.load_result(result))
            cursor = page.next_cursor
            if not cursor:
                return

    async def flush(
        self, session_ids: Sequence[str] | None = None, timeout_s: float = FLUSH_S
    ) -> protocol.FlushResult:
        """Return when the store behind has these sessions, or all: the barrier.

        Args:
            session_ids: which; None for all.
            timeout_s: how long the daemon tries, seconds.

        Returns:
            how many sessions the store has, and how many it does not have yet.
        """
        ids = None if session_ids is None else list(session_ids)
        params = protocol.FlushParams(session_ids=ids, timeout_s=timeout_s)
        line = await self.request("server.flush", params, timeout_s=timeout_s + FLUSH_MARGIN_S)
        return protocol.decode_flush(line)

    async def stats(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the store counts, as `server.stats` gives it."""
        return protocol.decode_members(await self.request("server.stats", timeout_s=timeout_s))

    async def info(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the store is, as `server.info` gives it."""
        return protocol.decode_members(await self.request("server.info", timeout_s=timeout_s))
