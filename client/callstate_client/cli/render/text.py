"""Values as people read them: numbers masked, lengths of time, and styles. Pure."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from rich.text import Text

from callstate_client.cli.output import printable
from callstate_client.model.state import SessionState, Status
from callstate_client.store import Record

STATUS_STYLES: Final[dict[str, str]] = {
    Status.ACTIVE: "green",
    Status.PENDING: "cyan",
    Status.ON_HOLD: "yellow",
    Status.TRANSFERRING: "yellow",
    Status.ENDED: "dim",
}
STATE_STYLES: Final[dict[str, str]] = {"suspect": "bold yellow", "orphan": "yellow"}


def masked(number: str) -> str:
    """A phone number or address, masked except for its last two digits."""
    digits = re.sub(r"\D", "", number)
    if not number:
        return ""
    return "***" + (digits[-2:] if len(digits) > 2 else "")


def duration_text(duration: timedelta) -> str:
    """A duration in its two largest units: `4s`, `3m20s`, `2h05m`, `3d04h`."""
    seconds = max(0, int(duration.total_seconds()))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"


def shown_numbers(state: SessionState, *, show_numbers: bool) -> tuple[str, str]:
    """The calling and the called number, masked unless they are to be shown."""
    if show_numbers:
        return printable(state.from_), printable(state.to)
    return masked(state.from_), masked(state.to)


def status_text(record: Record) -> Text:
    """The status, and why it ended."""
    status = printable(record.state.status)
    reason = f" ({printable(record.ended_reason)})" if record.ended_reason else ""
    return Text(status + reason, style=STATUS_STYLES.get(record.state.status, ""))
