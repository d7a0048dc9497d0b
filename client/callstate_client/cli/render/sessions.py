"""Sessions as a table, one a line. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from callstate_client.cli.output import PIPE_COLUMNS, printable
from callstate_client.cli.render.text import STATUS_STYLES, duration_text, shown_numbers, status_text
from callstate_client.store import Record


def sessions_table(records: list[Record], at: datetime, *, show_numbers: bool, width: int = PIPE_COLUMNS) -> Table:
    """Sessions, one per line.

    Args:
        at: the current time.
        show_numbers: show phone numbers in full.
        width: of the terminal. Ids are always shown whole, for they are what other commands take; columns that do
            not fit are left out, least needed first, and what is left is shortened.
    """
    columns = {name: [name] for name in _COLUMNS}
    for record in records:
        for name, cell in zip(columns, _row(record, at, show_numbers=show_numbers), strict=True):
            columns[name].append(cell)
    widths = {name: max(map(cell_len, cells)) for name, cells in columns.items()}
    for name in _DROPPED_FIRST:
        if _excess(widths, width) > 0:
            del widths[name]
    for name in ("OWNER", "STATUS"):
        shortened = widths[name] - max(0, _excess(widths, width))
        widths[name] = max(shortened, min(widths[name], len(name) + 1))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, needed in widths.items():
        table.add_column(name, no_wrap=True, width=needed, justify="right" if name in _RIGHT else "left")
    for number, record in enumerate(records, 1):
        cells = {name: Text(columns[name][number]) for name in widths}
        cells["STATUS"].stylize(STATUS_STYLES.get(record.state.status, ""))
        table.add_row(*cells.values())
    return table


_COLUMNS = ("ID", "STATUS", "OWNER", "PROVIDER", "DIRECTION", "FROM", "TO", "TURNS", "AGE", "LAST SIGN")
_RIGHT = ("TURNS", "AGE", "LAST SIGN")
_DROPPED_FIRST = ("DIRECTION", "PROVIDER", "TO", "FROM", "TURNS")


def _excess(widths: Mapping[str, int], width: int) -> int:
    """How many columns of a terminal are missing for these, with two between each."""
    return sum(widths.values()) + 2 * (len(widths) - 1) - width


def _row(record: Record, at: datetime, *, show_numbers: bool) -> tuple[str, ...]:
    """The cells of one session, in the order of _COLUMNS."""
    state = record.state
    from_, to = shown_numbers(state, show_numbers=show_numbers)
    return (
        printable(state.id),
        status_text(record).plain + (" restored" if record.restored else ""),
        printable(record.owner or ""),
        printable(state.provider),
        printable(state.direction),
        from_,
        to,
        str(record.turn_count),
        duration_text(at - state.created_at),
        duration_text(at - state.updated_at),
    )
