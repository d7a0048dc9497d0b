"""One turn of the loop: its changes are one group, journaled before any reply that saw them leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from callstate_client.engine.request import NULL_ID, Asked, error_line
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.verbs.table import Context
from callstate_client.errors import NotDurableError
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.journal import Journal, SyncGate
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.serving.connection import Connection

log = logging.getLogger(__name__)


class Turn:
    """Gathers what happens in a turn of the loop, and ends it.

    Args:
        ctx: the sessions.
        journal: takes the group; None keeps no log (durability `memory`).
        gate: where replies wait for a sync (durability `power`); None lets them leave at once.
        metrics: counts what fails.
        again: answers a request anew, whose first answer told of what was undone.
    """

    def __init__(
        self,
        ctx: Context,
        journal: Journal | None,
        gate: SyncGate | None,
        metrics: Metrics,
        again: Callable[[Connection, Asked], None],
    ) -> None:
        self._ctx = ctx
        self._journal = journal
        self._gate = gate
        self._metrics = metrics
        self._again = again
        self.pending_reply_bytes = LimitsConfig().pending_reply_bytes
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._touched: dict[Connection, None] = {}
        self._since_change: list[tuple[Connection, Asked, int, bool]] = []
        self._refusing = False

    @property
    def journal_state(self) -> str:
        """`ok`, or `failing` while the journal takes no writes."""
        return "failing" if self._refusing else "ok"

    # -- while it lasts -------------------------------------------------------------------------------------

    def touched(self, connection: Connection) -> None:
        """A reply is queued there: it leaves when the group is down."""
        self._touched[connection] = None
        if not self._scheduled:
            self.schedule()

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._touched.pop(connection, None)

    def answered(self, connection: Connection, asked: Asked, place: int, changed: bool) -> None:
        """A request was answered while a group is open: the group may yet fail, so remember it.

        Args:
            connection: who asked.
            asked: for what.
            place: of the reply among those queued on the connection; -1 for none.
            changed: the request is part of the group, and did not only see it.
        """
        self._since_change.append((connection, asked, place, changed))
        if not self._scheduled:
            self.schedule()

    def schedule(self) -> None:
        """End the turn when the loop has seen to all that is ready now."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.end)

    # -- its end --------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Put the group down, then let the replies leave."""
        self._scheduled = False
        self.commit()
        touched, self._touched = self._touched, {}
        if self._gate is not None:
            self._gate.hold(touched)
            return
        for connection in touched:
            connection.flush()

    async def drained(self) -> None:
        """End the turn, and wait until no reply is held back any more."""
        self.end()
        if self._gate is not None:
            await self._gate.drained()

    async def close(self) -> None:
        """End the last turn, and let no sync of replies be under way any more."""
        self.end()
        if self._gate is not None:
            await self._gate.close()

    def commit(self) -> None:
        """Put the open group down, or undo it where the journal does not take it."""
        if self._ctx.cache.facts:
            self._put_down_facts()
        while group := self._ctx.cache.group:  # again, where what is answered anew makes a change this time
            try:
                if self._journal is not None:
                    self._journal.append(group)
            except Exception as error:  # noqa: BLE001 - ours too: a group left open would hold up everybody
                self._undo(error)
            else:
                self._refused(False)
                self._ctx.cache.commit()
                self._ctx.is_down()
                self._since_change.clear()
        self._publish()

    def _put_down_facts(self) -> None:
        """Tell the journal what is so; where it does not take it, again at the next turn's end."""
        try:
            if self._journal is not None:
                self._journal.append(self._ctx.cache.facts)
        except Exception as error:  # noqa: BLE001 - as with a group
            self._refuse(error)
        else:
            self._ctx.cache.facts = []
            self._refused(False)

    def _publish(self) -> None:
        """Tell what has happened; that also ends a turn in which nothing was changed."""
        cut_off = self._ctx.events.publish(self.pending_reply_bytes)
        if cut_off:
            self._metrics.count("subscribers_cut_off", cut_off)
            log.warning("%d subscribers did not read their events, and were cut off", cut_off)

    def _refused(self, refusing: bool) -> None:
        if refusing is not self._refusing:
            self._refusing = refusing
            self._ctx.events.note("journal.full" if refusing else "journal.ok", self._ctx.now_us())

    def _refuse(self, error: Exception) -> None:
        if not self._refusing:  # once, not for every write of a bad hour
            self._refused(True)
            fault = None if isinstance(error, OSError) else error  # a fault of ours: with its traceback
            log.error(
                "the journal does not take writes: %s; they are refused as not_durable", error, exc_info=fault
            )

    def _undo(self, error: Exception) -> None:
        """The group is not down: take it back, say so, and answer again what had seen it."""
        self._metrics.count("groups_not_durable")
        undone = self._ctx.cache.rollback()
        self._ctx.events.drop(
            {session.id: session.fenced_epoch for session in undone if isinstance(session, Session)}
        )
        self._refuse(error)
        calls, self._since_change = self._since_change, []
        self._ctx.is_undone(undone)
        why = getattr(error, "strerror", None) or "see the daemon's log"
        refusal = NotDurableError(f"the journal could not be written, nothing was changed: {why}")
        for connection, asked, place, changed in calls:
            if place >= 0:
                connection.replace(place, error_line(asked.request_id or NULL_ID, refusal) if changed else b"")
            if not changed:
                self._again(connection, asked)
