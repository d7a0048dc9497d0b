"""A progress bar on stderr, so that stdout has the export alone; nothing if stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn


@contextmanager
def progress(verb: str, total: int | None, *, visible: bool) -> Iterator[Callable[[int, int], None]]:
    """Shows how far it has come.

    Args:
        verb: what is being done.
        total: of what is counted; None: unknown.
        visible: whether to show it at all.

    Yields:
        a function to call with how much of the total is done, and how many calls that were.
    """
    if not (visible and sys.stderr.isatty()):
        yield lambda _done, _calls: None
        return
    columns = (
        TextColumn(f"[bold]{verb}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[calls]} calls"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(verb, total=total, calls=0)
        yield lambda done, calls: bar.update(task, completed=done, calls=calls)
