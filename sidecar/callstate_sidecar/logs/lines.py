"""The daemon's log lines as text or JSON, with syslog priorities where systemd's journal reads them."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final

from callstate_sidecar.logs.event_log import event_of, fields_of

# sd-daemon(3): `<N>` before a line is its syslog priority.
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7


class _Formatter(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = self.render(record)
        if not self._journal:
            return text
        # The journal takes each line as an entry, so the lines of a traceback need the priority as well.
        prefix = f"<{priority(record.levelno)}>"
        return "\n".join(prefix + line for line in text.split("\n"))

    def render(self, record: logging.LogRecord) -> str:
        raise NotImplementedError


class TextFormatter(_Formatter):
    """`12:00:00.123 INFO    message event=…`; without time and level where systemd's journal adds its own."""

    def render(self, record: logging.LogRecord) -> str:
        """The record as one line, followed by its traceback, if any."""
        line = f"{one_line(record.getMessage())} event={event_of(record)}"
        if not self._journal:
            line = f"{_local_time(record)} {record.levelname:<7} {line}"
        trace = traceback(record)
        return f"{line}\n{trace}" if trace else line


class JsonFormatter(_Formatter):
    """One object per line: `time`, `level`, `event`, `logger`, `message`, the fields, and `exception`."""

    def render(self, record: logging.LogRecord) -> str:
        """The record as one JSON object."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, object] = {
            "time": at.removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "event": event_of(record),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in fields_of(record).items() if name not in entry}
        trace = traceback(record)
        if trace:
            entry["exception"] = trace
        return json.dumps(entry, default=str)


def priority(level: int) -> int:
    """The syslog priority of a level, 2 (critical) to 7 (debug)."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


def traceback(record: logging.LogRecord) -> str:
    """The record's traceback and stack, if any."""
    formatter = logging.Formatter()
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def one_line(text: str) -> str:
    """Escape line breaks: text from outside (an id, a reason) must not look like another log line."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _local_time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.") + f"{int(record.msecs):03d}"
