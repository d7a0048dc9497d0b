"""What `callstate ls --watch` prints where it can't redraw: each call again when something about it has changed."""

from __future__ import annotations

from collections.abc import Sequence

from callstate_client.api import CallStore
from callstate_client.cli.output import Output
from callstate_client.cli.render.documents import record_document
from callstate_client.cli.render.sessions import SessionTable
from callstate_client.errors import SessionNotFoundError
from callstate_client.model.state import Status
from callstate_client.model.times import now
from callstate_client.store import Record


class WatchedCalls:
    """The calls as they were printed last.

    Args:
        store: asked for calls that are listed no more.
        out: where they are printed.
        table: lays them out.
    """

    def __init__(self, store: CallStore, out: Output, table: SessionTable) -> None:
        self.table = table
        self._store = store
        self._out = out
        self._printed: dict[str, tuple[object, ...]] = {}
        self._last: dict[str, Record] = {}
        self._has_head = False

    async def print_changes(self, records: Sequence[Record], *, show_numbers: bool) -> None:
        """Print those of the calls that differ from what was printed of them, and those that have gone."""
        present = {record.state.id: record for record in records}
        gone = [await self._gone(self._last[name]) for name in self._last.keys() - present.keys()]
        changed = [each for name, each in present.items() if self._printed.get(name) != _seen(each)]
        self._last = present
        self._printed = {name: _seen(each) for name, each in present.items()}
        if self._out.as_json:
            for each in (*changed, *gone):
                self._out.line(record_document(each, history=False, show_numbers=show_numbers))
        elif changed or gone or not self._has_head:
            self._out.text(self.table.table([*changed, *gone], now(), head=not self._has_head))
            self._has_head = True

    async def _gone(self, last: Record) -> Record:
        """A call that is listed no more: as it is now, or as ended if it was deleted."""
        try:
            return await self._store.get(last.state.id, history="none")
        except SessionNotFoundError:
            last.state.status, last.ended_reason, last.liveness = Status.ENDED, "deleted", None
            return last


def _seen(record: Record) -> tuple[object, ...]:
    """All of a call that can change, but for the time of its last sign of life."""
    return record.version, record.owner, record.epoch, record.liveness, record.restored
