"""Names with their values, one a line: figures of the daemon, the head of a session. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from callstate_client.cli.output import printable


def figures_table(figures: Mapping[str, Any]) -> Table:
    """Nested figures (info, stats) as dotted names and values."""
    return pairs_table(dict(_flat(figures)))


def pairs_table(rows: Mapping[str, Text | str]) -> Table:
    """Names in bold with their values, one per line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(printable(name)), value if isinstance(value, Text) else Text(printable(value)))
    return table


def json_text(value: Any) -> str:
    """A value as compact JSON."""
    return msgspec.json.encode(value).decode()


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in figures.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json_text(value)
