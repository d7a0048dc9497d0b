"""What can be asked of a store without changing anything; the half of the worker's view that operators share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from callstate_client import checks, protocol
from callstate_client.model import SessionState
from callstate_client.protocol import LoadResult
from callstate_client.store import Record
from callstate_client.times import format_time

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


class Asking(ABC):
    """Reads. `timeout_s` is how long one call may take, seconds; None for the store's own."""

    # -- what answers -------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether `close()` was called."""

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

    # -- one session --------------------------------------------------------------------------------------

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

    # -- all sessions -------------------------------------------------------------------------------------

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

    # -- the store itself ---------------------------------------------------------------------------------

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

    async def ping(self, *, timeout_s: float | None = None) -> None:
        """Return once the store has answered."""
        protocol.decode_members(await self.request("server.ping", timeout_s=timeout_s))
