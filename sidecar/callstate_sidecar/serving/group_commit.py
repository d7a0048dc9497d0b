"""Group commit: all changes of one turn of the event loop are written to the journal in one go.

While a turn lasts, requests change the sessions in memory, and their replies are queued on their connections. At
its end the group is appended to the journal by one write; only then do the replies leave, those of reads included,
which may have seen the group. With durability `power` they leave after a sync (journal/sync_gate.py).

A group that has become long is committed at once, while the request that made it long is being served.

The event loop does not announce the end of a turn, so it is a callback that runs in the loop's next round. While
only one connection sends at a time, as at the pace of speech, that is a detour: the group then ends as soon as the
lines that were received are served. It takes requests of two connections at once to have groups wait for the end of
the turn again.

If the journal can't be written, the group is rolled back in memory. Requests that changed something are answered
`not_durable`; requests that only read are run again, and answered according to the restored state. What is not a
change (heartbeats, worker records, the departure of a worker) is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final

from callstate_client.engine.request import NULL_ID, DecodedRequest, error_line
from callstate_client.engine.rules.context import Context
from callstate_client.errors import NotDurableError
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.journal import Journal, SyncGate
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.long_turns import NOTICED_S
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.serving.connection import ClientConnection

log = EventLog(__name__)

ALONE_AFTER: Final = 3
"""After this many groups in a row with one connection each, a group no longer waits for others. On a host with
eight workers requests of two coincide often enough that many would hardly ever follow each other."""

AT_ONCE_S: Final = 0.00002
"""Requests of two connections that are read within this time, seconds, have probably been ready at once: no client
has sent one because of the other's reply. Waking a process alone takes as long."""

GROUP_BYTES: Final = 1024 * 1024
"""A group with more bytes of documents and turns than this is committed before the turn is over. To encode,
checksum and write a megabyte takes half a millisecond and more, and many short requests may change much."""


class GroupCommit:
    """Collects the replies of a turn of the loop, and commits its group.

    Args:
        ctx: the sessions.
        journal: receives each group; None: there is no log (durability `memory`).
        gate: holds replies until a sync (durability `power`); None: they leave at once.
        metrics: counts groups that failed.
        run_again: runs a request again whose reply was part of a group that was rolled back.
    """

    def __init__(
        self,
        ctx: Context,
        journal: Journal | None,
        gate: SyncGate | None,
        metrics: Metrics,
        run_again: Callable[[ClientConnection, DecodedRequest], None],
    ) -> None:
        self._ctx = ctx
        self._tx = ctx.tx
        self._journal = journal
        self._gate = gate
        self._metrics = metrics
        self._run_again = run_again
        self.pending_reply_bytes = LimitsConfig().pending_reply_bytes
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._alone = 0
        """Groups in a row with one connection each, at most ALONE_AFTER."""
        self._last: ClientConnection | None = None
        """The connection whose lines were received last."""
        self._ended_at = 0.0
        self._replying: dict[ClientConnection, None] = {}
        self._refusing = False
        self._catching_up = False
        """Whether subscribers that have missed events are about to be sent some."""

    @property
    def journal_state(self) -> str:
        """`ok`, or `failing` while the journal can't be written."""
        return "failing" if self._refusing else "ok"

    # -- during a turn -------------------------------------------------------------------------------------

    def reply_queued(self, connection: ClientConnection) -> None:
        """A reply is queued on this connection: it leaves once the group is committed."""
        self._replying[connection] = None
        if not self._scheduled:
            self.schedule()

    def forget(self, connection: ClientConnection) -> None:
        """A connection is closed."""
        self._replying.pop(connection, None)
        if connection is self._last:
            self._last = None

    def request_answered(
        self, connection: ClientConnection, request: DecodedRequest, place: int, changed: bool
    ) -> None:
        """A request was answered while a group is open: remember it, as the group may yet fail.

        Args:
            connection: whose request it is.
            request: the request.
            place: of the reply among those queued on the connection; -1: there is none.
            changed: the request is part of the group, and did not only read.
        """
        self._tx.after_rollback.append(partial(self._answer_again, connection, request, place, changed))
        if self._tx.size_bytes > GROUP_BYTES:
            self.end()
        elif not self._scheduled:
            self.schedule()

    def begin_alone(self, connection: ClientConnection) -> bool:
        """Lines that this connection has received are about to be served.

        Returns:
            whether the caller has to end the group once they are: nobody else is likely to be served in this turn.
        """
        if connection is not self._last:
            self._last = connection
            if monotonic() - self._ended_at < AT_ONCE_S:
                self._alone = 0
        if self._alone < ALONE_AFTER or self._scheduled:
            return False
        self._scheduled = True
        return True

    def schedule(self) -> None:
        """End the turn after the callbacks that are ready now."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.end)

    # -- the end of a turn ----------------------------------------------------------------------------------

    def end(self, now: float = 0.0) -> None:
        """Commit the group, then let the replies leave. `now`: monotonic seconds; 0: to be read."""
        self._scheduled = False
        began = now or monotonic()
        turns = self._metrics.long_turns
        if began > turns.read_after:
            turns.begin(began)
        self.commit()
        replying, self._replying = self._replying, {}
        if len(replying) > 1:
            self._alone = 0
        elif self._alone < ALONE_AFTER:
            self._alone += 1
        if self._gate is not None:
            self._gate.hold(replying)
        else:
            for connection in replying:
                connection.flush()
        ended = monotonic()
        if ended - began > NOTICED_S:
            turns.note("group commit", ended - began)
        if ended > turns.read_after:
            turns.begin(ended)
        self._ended_at = ended

    async def drained(self) -> None:
        """End the turn, and wait until no reply is held."""
        self.end()
        if self._gate is not None:
            await self._gate.drained()

    async def close(self) -> None:
        """End the last turn and wait for the sync in progress; no other is begun."""
        self.end()
        if self._gate is not None:
            await self._gate.close()

    def commit(self) -> None:
        """Write the open group to the journal, or roll it back if that fails; then publish the events.

        Facts, which are never rolled back, are written in front of it and by the same write: one that was journaled
        after a group that came later, as that a deletion has reached the store behind a new session of the same id,
        would undo that in a replay. If there is no room for them, they are written with the next group.
        """
        tx = self._tx
        while tx.records or tx.observed:  # repeated if a request that was run again makes a change this time
            try:
                if self._journal is not None:
                    self._journal.append([*tx.observed, *tx.records] if tx.observed else tx.records)
            except Exception as error:  # noqa: BLE001 - bugs too: a group left open would block all clients
                if tx.records:
                    self._roll_back(error)
                else:
                    self._refuse(error)
                if not tx.records:
                    break
            else:
                if tx.observed:
                    tx.observed = []
                if self._refusing:
                    self._refused(False)
                tx.commit()
        if not tx.is_empty:
            tx.commit()
        if self._ctx.events.has_news:
            self._publish()

    def _publish(self) -> None:
        """Send the events; also at the end of a turn without changes."""
        events = self._ctx.events
        cut_off = events.publish(self.pending_reply_bytes)
        if events.behind:
            self._catch_up_soon()
        if cut_off:
            self._metrics.count("subscribers_cut_off", cut_off)
            log.warning("subscribers_cut_off", "%d subscribers did not read their events and were cut off", cut_off)

    def _catch_up_soon(self) -> None:
        """Send some of what subscribers have missed in the next turn."""
        if not self._catching_up:
            self._catching_up = True
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._catching_up = False
        self._ctx.events.catch_up()
        if self._ctx.events.behind:
            self._catch_up_soon()

    def _refused(self, refusing: bool) -> None:
        if refusing is not self._refusing:
            self._refusing = refusing
            self._ctx.events.note("journal.full" if refusing else "journal.ok", self._ctx.now_us())

    def _refuse(self, error: Exception) -> None:
        if not self._refusing:  # once, not for every failed write
            self._refused(True)
            fault = None if isinstance(error, OSError) else error  # a bug: with its traceback
            log.error(
                "journal_full",
                "the journal can't be written: %s; changes are refused as not_durable",
                error,
                exc_info=fault,
            )

    def _roll_back(self, error: Exception) -> None:
        """Roll back a group that could not be written: refuse its requests, and run again those that only read."""
        self._metrics.count("groups_not_durable")
        self._refuse(error)
        why = getattr(error, "strerror", None) or "see the daemon's log"
        self._tx.rollback(NotDurableError(f"the journal could not be written, nothing was changed: {why}"))

    def _answer_again(
        self,
        connection: ClientConnection,
        request: DecodedRequest,
        place: int,
        changed: bool,
        refusal: NotDurableError,
    ) -> None:
        """Replace the reply of a request whose group was rolled back."""
        if place >= 0:
            connection.replace(place, error_line(request.request_id or NULL_ID, refusal) if changed else b"")
        if not changed:
            self._run_again(connection, request)
