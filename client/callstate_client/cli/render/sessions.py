"""Sessions as a table, one a line, that fits the terminal. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from callstate_client.cli.output import PIPE_COLUMNS
from callstate_client.cli.render.columns import COLUMNS, DROPPED_FIRST, USERS, USUAL, cell
from callstate_client.cli.render.text import STATE_STYLES, STATUS_STYLES
from callstate_client.store import Record

GAP: Final = 2
"""Between two columns."""

SHORTENED: Final = (
    (("owner", "user", "provider", "direction", "from", "to", "call_id", "labels", "reason"), 12),
    (("status",), 9),
    (("owner", "user", "provider", "direction", "from", "to", "call_id", "labels", "reason"), 6),
    (("status", "state"), 6),
)
"""What is shortened where the terminal is too narrow, in rounds: the widest of these columns, down to so many
characters. The word for a state is needed longest."""


class SessionTable:
    """Lays out sessions, in the same columns each time.

    Args:
        columns: names of COLUMNS, all of which are shown; None: the usual ones, as far as there is room.
        show_numbers: show phone numbers in full.
    """

    def __init__(self, columns: Sequence[str] | None, *, show_numbers: bool) -> None:
        self._columns = columns
        self._show_numbers = show_numbers
        self._widths: dict[str, int] = {}

    def table(
        self, records: Sequence[Record], at: datetime, width: int = PIPE_COLUMNS, *, head: bool = True
    ) -> Table:
        """A table of these sessions.

        Args:
            records: the sessions.
            at: the current time.
            width: of the terminal. Ids are always shown whole, for they are what other commands take; where others
                do not fit, the least needed are left out and the widest shortened.
            head: with the columns' titles.
        """
        names = self._columns or _usual(records)
        rows = [{name: cell(name, each, at, show_numbers=self._show_numbers) for name in names} for each in records]
        for name in names:
            needed = max((cell_len(row[name]) for row in rows), default=0)
            self._widths[name] = max(needed, len(COLUMNS[name].title), self._widths.get(name, 0))
        widths = _fitted({name: self._widths[name] for name in names}, width, droppable=self._columns is None)
        table = Table(box=None, header_style="bold", pad_edge=False, show_header=head)
        for name, column_width in widths.items():
            column = COLUMNS[name]
            table.add_column(
                column.title, no_wrap=True, width=column_width, justify="right" if column.is_number else "left"
            )
        for record, row in zip(records, rows, strict=True):
            table.add_row(*(Text(row[name], style=_style(name, record)) for name in widths))
        return table


def _usual(records: Sequence[Record]) -> Sequence[str]:
    """What is shown where nothing else is asked for: with whose calls they are, if that differs."""
    if len({record.uid for record in records}) < 2:
        return USUAL
    at = USUAL.index("owner") + 1
    return (*USUAL[:at], USERS, *USUAL[at:])


def _style(name: str, record: Record) -> str:
    if name == "status":
        return STATUS_STYLES.get(record.state.status, "")
    return STATE_STYLES.get(record.liveness or "", "") if name == "state" else ""


def _fitted(widths: dict[str, int], width: int, *, droppable: bool) -> dict[str, int]:
    """The columns that fit into a terminal, and how wide each is there."""

    def excess() -> int:
        return sum(widths.values()) + GAP * (len(widths) - 1) - width

    for name in DROPPED_FIRST if droppable else ():
        if excess() > 0:
            widths.pop(name, None)
    for names, least in SHORTENED:
        shortened = [name for name in widths if name in names]
        while excess() > 0:
            widest = max(shortened, key=lambda name: widths[name], default=None)
            if widest is None or widths[widest] <= least:
                break
            widths[widest] -= 1
    return widths
