"""One method for each verb of the protocol, as coroutines: what every store can do with sessions.

A method builds its request (requests/), sends it (requester.py) and decodes the reply. Names, parameters, checks
and decoding therefore exist only once, and SidecarStore and MemoryStore can't drift apart. The blocking front's
methods are generated from these. Nothing here knows of held calls: they, their outboxes and heartbeats are built on
top of this class (calls/), and CallStore (api.py) combines the two.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Unpack

from callstate_client import protocol, requests
from callstate_client.errors import ConflictError, StoreClosedError
from callstate_client.model.state import SessionState
from callstate_client.model.wellformed import turn_extra
from callstate_client.protocol.results import CheckResult, DrainResult
from callstate_client.requester import Requester
from callstate_client.requests import Page, PreparedRequest
from callstate_client.requests.patches import Beside, Changes, split_changes
from callstate_client.store import Record

__all__ = ["SessionApi"]


class SessionApi(Requester):
    """The verbs of the protocol. `timeout_s` is how long a method may take, seconds; None for the store's default.

    Mutations carry an `op`, so one that is sent twice takes effect once. Their `epoch` is a fencing token, as a
    claim returns it (`Record.epoch`): with it, the request counts as the owner's, and raises FencedError once the
    session has another epoch. Without it (None), the request is not fenced.
    """

    # -- one session, read --------------------------------------------------------------------------------

    async def load(
        self, session_id: str, history: str | int = "all", *, timeout_s: float | None = None
    ) -> SessionState:
        """The state of this session; its `updated_at` is the later of the last change and the last heartbeat.

        Args:
            session_id: of the call.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            SessionNotFoundError: there is none.
        """
        return await self._execute(requests.load(session_id, history), timeout_s)

    async def get(self, session_id: str, history: str | int = "all", *, timeout_s: float | None = None) -> Record:
        """This session, with its owner, version, labels and whatever else is kept beside the state.

        Args:
            session_id: of the call.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            SessionNotFoundError: there is none.
        """
        return await self._execute(requests.get(session_id, history), timeout_s)

    # -- one session, changed -----------------------------------------------------------------------------

    async def update_heartbeat(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Send a heartbeat for this call, which changes nothing else.

        Raises:
            SessionNotFoundError, SessionEndedError: the call is over.
            FencedError: another worker holds it.
        """
        await self._execute(requests.heartbeat(session_id), timeout_s)

    async def save(
        self,
        state: SessionState | None,
        if_version: int | None = None,
        labels: Mapping[str, str] | None = None,
        heartbeat_timeout_s: float | None = None,
        max_duration_s: float | None = None,
        *,
        epoch: int | None = None,
        user: tuple[int, int] | None = None,
        timeout_s: float | None = None,
    ) -> int | None:
        """Save this whole state under its id, and set its `updated_at`. None is a no-op.

        If this store holds the call, the state is saved after everything that the call has queued, because the
        queued turns are already in `call.state`. `if_version=call.version` then means the version at that time.

        Args:
            state: what to save.
            if_version: save only if the session has this version; 0: only if it does not exist yet.
            labels: up to 16 short strings to select calls by; unchanged if not given.
            heartbeat_timeout_s: how long this call may go without a heartbeat before it becomes suspect, seconds;
                unchanged if not given.
            max_duration_s: how long this call may last, seconds; unchanged if not given.
            user: uid and primary gid of the user on whose behalf an operator creates the session; -1: not known.

        Returns:
            the new version; None if there was no state.

        Raises:
            ConflictError: the session has another version.
            SessionEndedError: it was reaped.
            ForbiddenError: `user` was given, and the caller is not an operator.
            DocumentError: the state was loaded only in part, or can't be written as JSON.
        """
        if self.closed:
            raise StoreClosedError
        if state is None:
            return None
        beside = requests.beside_state(labels, heartbeat_timeout_s, max_duration_s, self.new_op())
        if user is not None:
            beside["user"] = {"uid": user[0], "gid": user[1]}
        return await self._save(state, if_version, beside, epoch, timeout_s)

    async def _save(
        self,
        state: SessionState,
        if_version: int | None,
        beside: Mapping[str, Any],
        epoch: int | None,
        timeout_s: float | None,
    ) -> int:
        document = requests.document(state, self._redaction)
        request = requests.save_document(state, document, beside, if_version, None)
        return (await self._execute(request, timeout_s, epoch)).version

    async def delete(self, session_id: str, *, epoch: int | None = None, timeout_s: float | None = None) -> None:
        """Delete this session, with everything that is kept beside it.

        Raises:
            SessionNotFoundError: there is none.
            FencedError: another worker holds it.
            StoreUnavailableError: it is not in memory, and the daemon's store can't be reached.
        """
        await self._execute(requests.delete(session_id, self.new_op(), await self.features()), timeout_s, epoch)

    async def _mutate(self, request: PreparedRequest[int], timeout_s: float | None, epoch: int | None) -> int:
        """Execute a mutation of one session; a store that holds the session may have to send others before it."""
        return await self._execute(request, timeout_s, epoch)

    async def add_turn(
        self,
        session_id: str,
        role: str,
        content: str,
        duration_ms: int = 0,
        *,
        at: datetime | None = None,
        extra: dict[str, Any] | None = None,
        response_ms: int | None = None,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Append a turn, count it, and add its speech time. Returns the new version.

        Args:
            session_id: of the call.
            role: see `Role`.
            content: what was said.
            duration_ms: how long it took to say, milliseconds.
            at: when it was said; default now.
            extra: further members of the turn.
            response_ms: time from the end of what the user said to the first word of this turn, milliseconds; goes
                into `first_response_ms` and `average_response_ms` of the metrics.
        """
        extra = turn_extra(extra, response_ms)
        if self._redaction is not None:
            redacted = self._redaction.values(session_id, role, content, duration_ms, at, extra)
            role, content, duration_ms, at, extra = redacted
        request = requests.add_turn(session_id, role, content, duration_ms, at, extra, self.new_op())
        return await self._mutate(request, timeout_s, epoch)

    async def amend_last_turn(
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
        """Change the last turn, or the last turn of a role, for example to what was heard before a barge-in.

        The same as `amend_turn` without an index.
        """
        return await self.amend_turn(
            session_id,
            content=content,
            duration_ms=duration_ms,
            extra=extra,
            role=role,
            epoch=epoch,
            timeout_s=timeout_s,
        )

    async def amend_turn(
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
        """Change a turn, for example to what was heard of it before a barge-in. Returns the new version.

        Args:
            session_id: of the call.
            index: which turn, counted from 0, or from the end if negative; None for the last.
            content: what was said; None leaves it as it is.
            duration_ms: how long it took, milliseconds; None leaves it as it is. Speech time is not counted again.
            extra: members to add or replace; a value of None removes the member.
            role: without an index, the last turn of this role is changed; with one, the turn must have this role.

        Raises:
            ConflictError: there is no such turn.
            MethodNotFoundError: an index or a role was given, and the daemon is too old to know them.
        """
        if index is not None or role is not None:
            requests.check_amendable(index, role, await self.features())
        if self._redaction is not None:
            content, extra = self._redaction.patch(session_id, role, content, extra)
        request = requests.amend_turn(session_id, index, role, content, duration_ms, extra, self.new_op())
        return await self._mutate(request, timeout_s, epoch)

    async def record_interruption(
        self, session_id: str, *, epoch: int | None = None, timeout_s: float | None = None
    ) -> int:
        """Count one interruption (barge-in). Returns the new version."""
        return await self._mutate(requests.record_interruption(session_id, self.new_op()), timeout_s, epoch)

    async def update(
        self,
        session_id: str,
        if_version: int | None = None,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
        **changes: Unpack[Changes],
    ) -> int:
        """Change members of the session other than its history (a merge patch, RFC 7396). Returns the new version.

        Args:
            session_id: of the call.
            if_version: change it only if the session has this version.
            changes: members by their names in SessionState (`status`, `from_`, `metrics` …). None removes a member,
                a dict is merged into the present one, and further members are given as `extra={…}`. Also `labels`,
                which replace the present ones, `heartbeat_timeout_s` and `max_duration_s`, seconds.

        Raises:
            ConflictError: the session has another version.
            InvalidParamsError: there is no such member (this is a TypeError too), or it can't be changed.
        """
        patch, beside = split_changes(changes)
        if not beside:
            request = requests.update(session_id, if_version, patch, self.new_op())
            return await self._mutate(request, timeout_s, epoch)
        return await self._update_beside(session_id, if_version, patch, beside, epoch=epoch, timeout_s=timeout_s)

    async def _update_beside(
        self,
        session_id: str,
        if_version: int | None,
        patch: dict[str, Any],
        beside: Beside,
        *,
        epoch: int | None,
        timeout_s: float | None,
    ) -> int:
        """Like `_mutate`, for an update that takes several requests."""
        return await self._rewrite_head(session_id, if_version, patch, beside, epoch=epoch, timeout_s=timeout_s)

    async def _rewrite_head(
        self,
        session_id: str,
        if_version: int | None,
        patch: dict[str, Any],
        beside: Beside,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Update labels or timeouts, and the head: read it, patch it, and save it if nothing has changed since."""
        for left in reversed(range(requests.REWRITES)):
            record = await self.get(session_id, "none", timeout_s=timeout_s)
            request = requests.rewrite_head(record, if_version, patch, beside, epoch, self.new_op())
            try:
                return await self._execute(request, timeout_s)
            except ConflictError:
                if if_version is not None or not left:
                    raise
        raise AssertionError("unreachable")

    async def end(
        self,
        session_id: str,
        reason: str | None = None,
        detail: Any = None,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """End the session. Ending it again changes nothing. Returns the version.

        Args:
            session_id: of the call.
            reason: why, in a word of your choice, up to 64 bytes.
            detail: any JSON that explains the reason.
        """
        return await self._mutate(requests.end(session_id, reason, detail, self.new_op()), timeout_s, epoch)

    # -- ownership ----------------------------------------------------------------------------------------

    async def claim(
        self, session_id: str, *, steal: bool = False, history: str | int = "all", timeout_s: float | None = None
    ) -> Record:
        """Become the owner of this session. Idempotent. Its owner has to send heartbeats: `hold(id)` does both.

        Args:
            session_id: of the call.
            steal: claim it even from a live worker.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            ConflictError: another live worker holds it.
            SessionEndedError: it has ended.
        """
        return await self._execute(requests.claim(session_id, self._claimant, history, steal=steal), timeout_s)

    async def claim_next(
        self, labels: Mapping[str, str] | None = None, history: str | int = "all", *, timeout_s: float | None = None
    ) -> Record | None:
        """Claim any one session that has lost its worker; None if there is none. No two workers get the same one.

        Args:
            labels: the session must have all of these.
            history: `"all"`, `"none"`, or how many of the last turns.
        """
        return await self._execute(requests.claim_next(self._claimant, labels, history), timeout_s)

    async def release(self, session_id: str, epoch: int, *, timeout_s: float | None = None) -> None:
        """Release this session: another worker may claim it at once, and has its full timeout to do so.

        Args:
            session_id: of the call.
            epoch: of the claim.

        Raises:
            FencedError: another worker has claimed it since.
        """
        await self._execute(requests.release(session_id, epoch), timeout_s)

    # -- all sessions -------------------------------------------------------------------------------------

    async def list_active(self, scope: str = "host", *, timeout_s: float | None = None) -> list[str]:
        """The ids of all sessions that have not ended.

        Args:
            scope: `"host"`: those of this host; `"all"`: those of every host, for which the daemon reads its store.
            timeout_s: how long each page of the answer may take.

        Raises:
            StoreUnavailableError: the scope is `"all"`, and the daemon's store can't be reached.
        """
        ids: list[str] = []
        request: PreparedRequest[Page[str]] | None = requests.list_active(scope)
        while request is not None:
            page = await self._execute(request, timeout_s)
            ids += page.items
            request = page.next_page
        return [*dict.fromkeys(ids)]  # the store's pages may overlap, and those before and after a restart

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
        users: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Record]:
        """The sessions that match, without their histories; pages are requested as the iteration reaches them.

        Args:
            status, provider, owner, call_id: only sessions whose value equals this.
            state: only sessions that have not ended and are `"live"`, `"suspect"`, `"orphan"` (had an owner, and
                has none now) or `"restored"` (from the journal, without a sign of life since the daemon started).
            ended_since: only those that ended then or later; a datetime with a timezone.
            labels: the session must have all of these.
            scope: `"host"`: sessions in this daemon's memory, where ended ones stay for `reaper.retention_s`;
                `"all"`: also those in the store, from every host, for as long as it keeps them. A session that
                leaves memory meanwhile may be listed twice, and any if the daemon restarts meanwhile.
            users: also return who created each session, as `uid` and `gid`.

        Raises:
            StoreUnavailableError: the scope is `"all"`, and the store can't be reached.
            MethodNotFoundError: the daemon is too old to list by state, or to list other hosts' sessions.
        """
        if needed := requests.listing_features(state, scope, users):
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
            users=users,
        )
        while request is not None:
            page = await self._execute(request, timeout_s)
            for record in page.items:
                yield record
            request = page.next_page

    # -- quarantine: what the daemon's store refuses ------------------------------------------------------

    async def quarantined(self, *, timeout_s: float | None = None) -> AsyncIterator[protocol.Quarantined]:
        """The sessions, and deletions of sessions, that the daemon's store refuses; pages are requested as the
        iteration reaches them."""
        request: PreparedRequest[Page[protocol.Quarantined]] | None = requests.quarantined()
        while request is not None:
            page = await self._execute(request, timeout_s)
            for refused in page.items:
                yield refused
            request = page.next_page

    async def show_quarantined(
        self, session_id: str, *, timeout_s: float | None = None
    ) -> protocol.QuarantineShowResult:
        """One session in quarantine, with what the store has in its place.

        Raises:
            SessionNotFoundError: it is not in quarantine.
        """
        return await self._execute(requests.show_quarantined(session_id), timeout_s)

    async def retry_quarantined(
        self, session_ids: Sequence[str] | None = None, *, timeout_s: float | None = None
    ) -> int:
        """Have the daemon write these again now, at most 1000, or all of them; returns how many there are."""
        return await self._execute(requests.retry_quarantined(session_ids), timeout_s)

    async def drop_quarantined(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Discard what the store refuses for this session: the daemon's state of it, or its deletion. From then on,
        what the store has counts.

        Raises:
            SessionNotFoundError: it is not in quarantine.
        """
        await self._execute(requests.drop_quarantined(session_id), timeout_s)

    # -- workers ------------------------------------------------------------------------------------------

    async def workers(self, *, timeout_s: float | None = None) -> AsyncIterator[protocol.WorkerInfo]:
        """The workers that are connected, may reconnect, or held sessions before the daemon restarted; pages are
        requested as the iteration reaches them.

        Raises:
            MethodNotFoundError: the daemon is too old to list them.
        """
        request: PreparedRequest[Page[protocol.WorkerInfo]] | None = requests.workers()
        while request is not None:
            page = await self._execute(request, timeout_s)
            for worker in page.items:
                yield worker
            request = page.next_page

    # -- the store itself ---------------------------------------------------------------------------------

    async def features(self) -> Collection[str]:
        """The optional parts of the protocol that the daemon supports; see `features` of `server.info`."""
        return frozenset((await self.info()).get("features", ()))

    async def flush(
        self, session_ids: Sequence[str] | None = None, timeout_s: float = requests.FLUSH_S
    ) -> protocol.FlushResult:
        """Wait until the daemon's store has the present state of these sessions, or of all.

        Args:
            session_ids: which sessions; None for all.
            timeout_s: how long the daemon tries, seconds.

        Returns:
            how many of the sessions the store has, and how many are still missing.
        """
        return await self._execute(requests.flush(session_ids, timeout_s), timeout_s + requests.FLUSH_MARGIN_S)

    async def erase(self, session_id: str, *, end: bool = False, timeout_s: float = requests.ERASE_S) -> list[str]:
        """Delete this session, and remove its bytes from the files of the daemon and its store.

        May be repeated, also after `delete()`.

        Args:
            session_id: which session.
            end: end it first if it is live.
            timeout_s: how long the daemon tries, seconds.

        Returns:
            the places beyond the daemon's reach where its bytes may still be, in words.

        Raises:
            SessionNotFoundError: there is none, and none is known to have existed.
            ConflictError: it is live, or was created again meanwhile.
            FencedError: it belongs to another host, or another worker holds it.
            StoreUnavailableError: it is deleted, but could not be removed from the store or the journal: repeat
                this.
        """
        request = requests.erase(session_id, end, timeout_s)
        return await self._execute(request, timeout_s + requests.FLUSH_MARGIN_S)

    async def check(self, *, repair: bool = False, timeout_s: float = requests.CHECK_S) -> CheckResult:
        """Compare the daemon's memory with its store, and check the store itself.

        Args:
            repair: also repair what can be repaired safely.

        Returns:
            the findings, each with a remedy.
        """
        return await self._execute(requests.check(repair), timeout_s)

    async def drain(self, on: bool = True, *, timeout_s: float | None = None) -> DrainResult:
        """Drain the host: new sessions are refused, existing ones continue.

        Args:
            on: False to accept new ones again.

        Returns:
            whether it is draining now, and how many sessions have not ended.
        """
        return await self._execute(requests.drain(on), timeout_s)

    async def stats(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """The counters of the daemon: the result of `server.stats`."""
        return await self._execute(requests.STATS, timeout_s)

    async def info(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the daemon is: the result of `server.info`."""
        return await self._execute(requests.INFO, timeout_s)

    async def settings(self, *, timeout_s: float | None = None) -> list[protocol.Setting]:
        """The daemon's configuration in force, and where each value comes from; empty for a MemoryStore.

        Raises:
            MethodNotFoundError: the daemon is too old to tell.
        """
        return (await self._execute(requests.CONFIG, timeout_s)).settings

    async def ping(self, *, timeout_s: float | None = None) -> None:
        """Return once the store has answered."""
        await self._execute(requests.PING, timeout_s)
