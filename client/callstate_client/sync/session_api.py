"""One method for each verb of the protocol, blocking.

Generated from callstate_client/session_api.py by scripts/blocking_front.py: change that, then `make sync-front`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Unpack

from callstate_client import protocol, requests
from callstate_client.errors import ConflictError, StoreClosedError
from callstate_client.model.state import SessionState
from callstate_client.model.wellformed import turn_extra
from callstate_client.protocol.results import CheckResult, DrainResult
from callstate_client.requests import Page, PreparedRequest
from callstate_client.requests.patches import Beside, Changes, split_changes
from callstate_client.store import Record
from callstate_client.sync.requester import Requester

__all__ = ["SessionApi"]


class SessionApi(Requester):
    """The verbs of the protocol; each returns when the daemon has answered.

    Those of the asyncio front's `SessionApi`, with the same parameters and errors.
    """

    # -- one session, read --------------------------------------------------------------------------------

    def load(self, session_id: str, history: str | int = "all", *, timeout_s: float | None = None) -> SessionState:
        """The state of this session; its `updated_at` is the later of the last change and the last heartbeat.

        Args:
            session_id: of the call.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            SessionNotFoundError: there is none.
        """
        return self._execute(requests.load(session_id, history), timeout_s)

    def get(self, session_id: str, history: str | int = "all", *, timeout_s: float | None = None) -> Record:
        """This session with what is known about it besides its document.

        Args:
            session_id: of the call.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            SessionNotFoundError: there is none.
        """
        return self._execute(requests.get(session_id, history), timeout_s)

    def save(
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
        """Save this state, whole, under its id, and set its `updated_at`. None is a no-op.

        Args:
            state: what to save.
            if_version: only if the session has this version; 0: only if there is none yet.
            labels: up to 16 short strings to select calls by; unchanged if not given.
            heartbeat_timeout_s: silence after which this call is suspected, seconds; same.
            max_duration_s: how long this call may last, seconds; same.
            user: uid and primary gid of the user for whom an operator creates the session; -1: not known.

        Returns:
            the new version; None for no state.

        Raises:
            ConflictError: the session has another version.
            SessionEndedError: it was reaped.
            ForbiddenError: with `user`, and the daemon does not take us for an operator.
            DocumentError: the state was loaded in part, or can't be written as JSON.
        """
        if self.closed:
            raise StoreClosedError
        if state is None:
            return None
        beside = requests.beside_state(labels, heartbeat_timeout_s, max_duration_s, self.new_op())
        if user is not None:
            beside["user"] = {"uid": user[0], "gid": user[1]}
        return self._save(state, if_version, beside, epoch, timeout_s)

    def _save(
        self,
        state: SessionState,
        if_version: int | None,
        beside: Mapping[str, Any],
        epoch: int | None,
        timeout_s: float | None,
    ) -> int:
        document = requests.document(state, self._redaction)
        request = requests.save_document(state, document, beside, if_version, None)
        return self._execute(request, timeout_s, epoch).version

    def delete(self, session_id: str, *, epoch: int | None = None, timeout_s: float | None = None) -> None:
        """Delete this session and everything that is kept of it.

        Raises:
            SessionNotFoundError: there is none.
            FencedError: another worker holds it.
            StoreUnavailableError: it is not in memory, and the daemon's store can't be reached.
        """
        self._execute(requests.delete(session_id, self.new_op(), self.features()), timeout_s, epoch)

    def add_turn(
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
            at: when; default now.
            extra: further members of the turn.
            response_ms: from the end of what the user said to the first word of this turn, milliseconds; counted in
                `first_response_ms` and `average_response_ms` of the metrics.
        """
        extra = turn_extra(extra, response_ms)
        if self._redaction is not None:
            redacted = self._redaction.values(session_id, role, content, duration_ms, at, extra)
            role, content, duration_ms, at, extra = redacted
        request = requests.add_turn(session_id, role, content, duration_ms, at, extra, self.new_op())
        return self._execute(request, timeout_s, epoch)

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
        """Change the last turn, or the last one of a role, for example to what was heard before a barge-in.

        As `amend_turn` without an index.
        """
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
        """Change a turn, for example to what was heard of it before a barge-in. Returns the new version.

        Args:
            session_id: of the call.
            index: which turn: from 0, or negative from the end; None for the last.
            content: what was said; None leaves it.
            duration_ms: how long it took, milliseconds; None leaves it. Speech time is not counted again.
            extra: members to add or replace; None as a value removes one.
            role: without an index the last turn of this role; with one, the role that the turn must have.

        Raises:
            ConflictError: there is no such turn.
            MethodNotFoundError: an index or a role was given, and the daemon is too old to know them.
        """
        if index is not None or role is not None:
            requests.check_amendable(index, role, self.features())
        if self._redaction is not None:
            content, extra = self._redaction.patch(session_id, role, content, extra)
        request = requests.amend_turn(session_id, index, role, content, duration_ms, extra, self.new_op())
        return self._execute(request, timeout_s, epoch)

    def record_interruption(
        self, session_id: str, *, epoch: int | None = None, timeout_s: float | None = None
    ) -> int:
        """Count one interruption (barge-in). Returns the new version."""
        return self._execute(requests.record_interruption(session_id, self.new_op()), timeout_s, epoch)

    def update(
        self,
        session_id: str,
        if_version: int | None = None,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
        **changes: Unpack[Changes],
    ) -> int:
        """Change members of the session, all but its history (a merge patch, RFC 7396). Returns the new version.

        Args:
            session_id: of the call.
            if_version: only if the session has this version.
            changes: members by the names SessionState has (`status`, `from_`, `metrics` …); None removes one; a
                dict patches what is there; further members as `extra={…}`. Also `labels`, which replace the present
                ones, `heartbeat_timeout_s` and `max_duration_s`, seconds.

        Raises:
            ConflictError: the session has another version.
            InvalidParamsError: there is no such member (a TypeError too), or it can't be changed.
        """
        patch, beside = split_changes(changes)
        if not beside:
            request = requests.update(session_id, if_version, patch, self.new_op())
            return self._execute(request, timeout_s, epoch)
        return self._rewrite_head(session_id, if_version, patch, beside, epoch=epoch, timeout_s=timeout_s)

    def _rewrite_head(
        self,
        session_id: str,
        if_version: int | None,
        patch: dict[str, Any],
        beside: Beside,
        *,
        epoch: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """An update of labels or timeouts, and of the head: read, patch, save if nothing has changed since."""
        for left in reversed(range(requests.REWRITES)):
            record = self.get(session_id, "none", timeout_s=timeout_s)
            request = requests.rewrite_head(record, if_version, patch, beside, epoch, self.new_op())
            try:
                return self._execute(request, timeout_s)
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
        """End the session. Ending it again changes nothing. Returns the version.

        Args:
            session_id: of the call.
            reason: a word of the worker's choice, up to 64 bytes.
            detail: any JSON to go with it.
        """
        return self._execute(requests.end(session_id, reason, detail, self.new_op()), timeout_s, epoch)

    # -- ownership ----------------------------------------------------------------------------------------

    def claim(
        self, session_id: str, *, steal: bool = False, history: str | int = "all", timeout_s: float | None = None
    ) -> Record:
        """Become the owner of this session, which takes heartbeats: `hold(id)` does both. Idempotent.

        Args:
            session_id: of the call.
            steal: also from a live worker.
            history: `"all"`, `"none"`, or how many of the last turns.

        Raises:
            ConflictError: another live worker holds it.
            SessionEndedError: it has ended.
        """
        return self._execute(requests.claim(session_id, self.worker_id, history, steal=steal), timeout_s)

    def claim_next(
        self, labels: Mapping[str, str] | None = None, history: str | int = "all", *, timeout_s: float | None = None
    ) -> Record | None:
        """Claim any session that has lost its worker; None if there is none. No two workers get the same one.

        Args:
            labels: the session must have all of these.
            history: `"all"`, `"none"`, or how many of the last turns.
        """
        return self._execute(requests.claim_next(self.worker_id, labels, history), timeout_s)

    def release(self, session_id: str, epoch: int, *, timeout_s: float | None = None) -> None:
        """Release this session: another worker may claim it at once, and has its full timeout to do so.

        Args:
            session_id: of the call.
            epoch: of the claim.

        Raises:
            FencedError: another worker has claimed it since.
        """
        self._execute(requests.release(session_id, epoch), timeout_s)

    # -- all sessions -------------------------------------------------------------------------------------

    def list_active(self, scope: str = "host", *, timeout_s: float | None = None) -> list[str]:
        """The ids of all sessions that have not ended.

        Args:
            scope: `"host"`: of this host; `"all"`: of every host, which reads the daemon's store too.
            timeout_s: for each page of the answer.

        Raises:
            StoreUnavailableError: `"all"`, and that store can't be reached.
        """
        ids: list[str] = []
        request: PreparedRequest[Page[str]] | None = requests.list_active(scope)
        while request is not None:
            page = self._execute(request, timeout_s)
            ids += page.items
            request = page.next_page
        return [*dict.fromkeys(ids)]  # the store's pages may overlap

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
        users: bool = False,
        timeout_s: float | None = None,
    ) -> Iterator[Record]:
        """The sessions that match, without their histories; pages are requested as the iteration reaches them.

        Args:
            status, provider, owner, call_id: match where equal.
            state: of those that have not ended, `"live"`, `"suspect"`, `"orphan"` (no owner now, had one) or
                `"restored"` (from the journal, and no sign of life since the daemon started).
            ended_since: only those that ended then or later; with a timezone.
            labels: the session must have all of these.
            scope: `"host"`: what is in this host's memory, ended calls for `reaper.retention_s`; `"all"`: what the
                store has of every host as well, for as long as it keeps ended calls. A session that leaves memory
                meanwhile may be listed twice.
            users: say who created each, as `uid` and `gid`.

        Raises:
            StoreUnavailableError: `"all"`, and the store can't be reached.
            MethodNotFoundError: the daemon is too old to list by state, or other hosts' sessions.
        """
        if needed := requests.listing_features(state, scope, users):
            requests.check_listable(self.features(), needed)
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
            page = self._execute(request, timeout_s)
            yield from page.items
            request = page.next_page

    # -- what the daemon's store refuses ------------------------------------------------------------------

    def quarantined(self, *, timeout_s: float | None = None) -> Iterator[protocol.Quarantined]:
        """The sessions, and deletions of sessions, that the daemon's store refuses; pages are requested as the
        iteration reaches them."""
        request: PreparedRequest[Page[protocol.Quarantined]] | None = requests.quarantined()
        while request is not None:
            page = self._execute(request, timeout_s)
            yield from page.items
            request = page.next_page

    def show_quarantined(self, session_id: str, *, timeout_s: float | None = None) -> protocol.QuarantineShowResult:
        """One of them, with what the store has in its place.

        Raises:
            SessionNotFoundError: the store does not refuse it.
        """
        return self._execute(requests.show_quarantined(session_id), timeout_s)

    def retry_quarantined(self, session_ids: Sequence[str] | None = None, *, timeout_s: float | None = None) -> int:
        """Have these written again now, at most 1000, or all; returns how many they are."""
        return self._execute(requests.retry_quarantined(session_ids), timeout_s)

    def drop_quarantined(self, session_id: str, *, timeout_s: float | None = None) -> None:
        """Give up what the store refuses of this session: its state here, or its deletion. What the store has is
        what counts from now on.

        Raises:
            SessionNotFoundError: the store does not refuse it.
        """
        self._execute(requests.drop_quarantined(session_id), timeout_s)

    # -- workers ------------------------------------------------------------------------------------------

    def workers(self, *, timeout_s: float | None = None) -> Iterator[protocol.WorkerInfo]:
        """The workers that are connected, may reconnect, or held sessions before the daemon's restart; pages are
        requested as the iteration reaches them.

        Raises:
            MethodNotFoundError: the daemon is too old to list them.
        """
        request: PreparedRequest[Page[protocol.WorkerInfo]] | None = requests.workers()
        while request is not None:
            page = self._execute(request, timeout_s)
            yield from page.items
            request = page.next_page

    # -- the store itself ---------------------------------------------------------------------------------

    def features(self) -> Collection[str]:
        """The optional parts of the protocol that the daemon supports; see `features` of `server.info`."""
        return frozenset(self.info().get("features", ()))

    def flush(
        self, session_ids: Sequence[str] | None = None, timeout_s: float = requests.FLUSH_S
    ) -> protocol.FlushResult:
        """Wait until these sessions, or all, are in the daemon's store.

        Args:
            session_ids: which; None for all.
            timeout_s: how long the daemon tries, seconds.

        Returns:
            how many sessions the store has, and how many are still missing.
        """
        return self._execute(requests.flush(session_ids, timeout_s), timeout_s + requests.FLUSH_MARGIN_S)

    def erase(self, session_id: str, *, end: bool = False, timeout_s: float = requests.ERASE_S) -> list[str]:
        """Delete this session, and whatever is left of its bytes in the files of daemon and store.

        May be repeated, also after `delete()`.

        Args:
            session_id: which.
            end: end it first if it is live.
            timeout_s: how long the daemon tries, seconds.

        Returns:
            where its bytes may be nevertheless, beyond the daemon's reach, in words.

        Raises:
            SessionNotFoundError: there is none, and there was none that is known of.
            ConflictError: it is live, or was created again meanwhile.
            FencedError: it belongs to another host, or another worker holds it.
            StoreUnavailableError: it is deleted, but store or journal could not be cleared of it: repeat this.
        """
        request = requests.erase(session_id, end, timeout_s)
        return self._execute(request, timeout_s + requests.FLUSH_MARGIN_S)

    def check(self, *, repair: bool = False, timeout_s: float = requests.CHECK_S) -> CheckResult:
        """Compare the daemon's memory with its store, and check the store itself.

        Args:
            repair: also repair what can be repaired safely.

        Returns:
            what was found, each with a remedy.
        """
        return self._execute(requests.check(repair), timeout_s)

    def drain(self, on: bool = True, *, timeout_s: float | None = None) -> DrainResult:
        """Drain the host: new sessions are refused, existing ones continue.

        Args:
            on: False: accept new ones again.

        Returns:
            whether it is draining now, and how many sessions have not ended.
        """
        return self._execute(requests.drain(on), timeout_s)

    def stats(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """The counters of the daemon: the result of `server.stats`."""
        return self._execute(requests.STATS, timeout_s)

    def info(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What the daemon is: the result of `server.info`."""
        return self._execute(requests.INFO, timeout_s)

    def settings(self, *, timeout_s: float | None = None) -> list[protocol.Setting]:
        """The daemon's configuration in force, and where each value comes from; empty for a MemoryStore.

        Raises:
            MethodNotFoundError: the daemon is too old to tell.
        """
        return self._execute(requests.CONFIG, timeout_s).settings

    def ping(self, *, timeout_s: float | None = None) -> None:
        """Return once the store has answered."""
        self._execute(requests.PING, timeout_s)
