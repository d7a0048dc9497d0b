"""What can be asked of a store without changing anything; the half of the worker's view that operators share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from callstate_client import protocol, requests
from callstate_client.calls.uncopied import Uncopied
from callstate_client.model.state import SessionState
from callstate_client.requests import Page, PreparedRequest
from callstate_client.store import Record

ResultT = TypeVar("ResultT")


class Asking(Uncopied, ABC):
    """Reads. `timeout_s` is how long one call may take, seconds; None for the store's own."""

    instead = "share this one within the process, and make one with connect() in another"

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
        """PreparedRequest for a verb of the protocol; gives the reply's line, for one of protocol's decoders.

        Args:
            method: the verb.
            params: of the verb's class.
            op_of: for a mutation with an `op`, the session that remembers it: it may be sent twice.
            timeout_s: seconds; None for the store's own.
        """

    async def _execute(
        self, request: PreparedRequest[ResultT], timeout_s: float | None, epoch: int | None = None
    ) -> ResultT:
        """Send a request and decode its reply.

        Args:
            request: what to send.
            timeout_s: seconds; None for the store's own.
            epoch: the fencing token of a mutation; None for none.
        """
        requests.fenced(request, epoch)
        reply = await self.request(request.method, request.params, op_of=request.op_of, timeout_s=timeout_s)
        return request.result(reply)

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
        return await self._execute(requests.load(session_id, history), timeout_s)

    async def get(self, session_id: str, history: str | int = "all", *, timeout_s: float | None = None) -> Record:
        """The session with what is known about it beside its document.

        Args:
            session_id: of the call.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            SessionNotFoundError: there is none.
        """
        return await self._execute(requests.get(session_id, history), timeout_s)

    # -- all sessions -------------------------------------------------------------------------------------

    async def list_active(self, scope: str = "host", *, timeout_s: float | None = None) -> list[str]:
        """The ids of all sessions that are there and have not ended.

        Args:
            scope: `"host"`: of this host; `"all"`: of every host, the store is asked too.
            timeout_s: for each page of the answer.

        Raises:
            StoreUnavailableError: `"all"`, and the store can't be asked.
        """
        ids: list[str] = []
        request: PreparedRequest[Page[str]] | None = requests.list_active(scope)
        while request is not None:
            page = await self._execute(request, timeout_s)
            ids += page.items
            request = page.next_page
        return [*dict.fromkeys(ids)]  # of the store's, some may come twice

    async def sessions(
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
    ) -> AsyncIterator[Record]:
        """The sessions that match, without their histories, page by page as they are asked for.

        Args:
            status, provider, owner, call_id: match where equal.
            state: of those that have not ended, `"live"`, `"suspect"`, `"orphan"` (no owner now, had one) or
                `"restored"` (from the journal, and no sign of life since the daemon started).
            ended_since: only those that ended then or later; with a timezone.
            labels: all of them must be there.
            scope: `"host"`: what is in this host's memory, ended calls for `reaper.retention_s`; `"all"`: what the
                store has of every host as well, for as long as it keeps ended calls. A session that leaves memory
                meanwhile may come twice.

        Raises:
            StoreUnavailableError: `"all"`, and the store can't be asked.
            MethodNotFoundError: an older daemon lists by no state, or of its own host alone.
        """
        if needed := requests.listing_features(state, scope):
            requests.check_listable(await self.features(), needed)
        request: PreparedRequest[Page[Record]] | None = requests.sessions(
            status=status,
            state=state,
            provider=provider,
            owner=owner,
            call_id=call_id,
            ended_since=ended_since,
            labels=labels,
            scope=scope,
        )
        while request is not None:
            page = await self._execute(request, timeout_s)
            for record in page.items:
                yield record
            request = page.next_page

    async def features(self) -> Collection[str]:
        """The optional parts of the protocol that what answers has; see `features` of `server.info`."""
        return frozenset((await self.info()).get("features", ()))

    # -- the store itself ---------------------------------------------------------------------------------

    async def flush(
        self, session_ids: Sequence[str] | None = None, timeout_s: float = requests.FLUSH_S
    ) -> protocol.FlushResult:
        """Return when the store behind has these sessions, or all: the barrier.

        Args:
            session_ids: which; None for all.
            timeout_s: how long the daemon tries, seconds.

        Returns:
            how many sessions the store has, and how many it does not have yet.
        """
        return await self._execute(requests.flush(session_ids, timeout_s), timeout_s + requests.FLUSH_MARGIN_S)

    async def stats(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the store counts, as `server.stats` gives it."""
        return await self._execute(requests.STATS, timeout_s)

    async def info(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the store is, as `server.info` gives it."""
        return await self._execute(requests.INFO, timeout_s)

    async def ping(self, *, timeout_s: float | None = None) -> None:
        """Return once the store has answered."""
        await self._execute(requests.PING, timeout_s)
