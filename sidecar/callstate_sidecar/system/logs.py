"""The format of the daemon's log lines: text or JSON, on stderr, with syslog priorities for systemd's journal.

Callers decide what goes into a line: session ids, counts, reasons and timings are allowed; a transcript, a phone
number (`from`, `to`), `recovery_data`, or a URL that has not passed `redact_url` never are. Details are passed as
`extra={"session_id": …}` and appear as `session_id=…`, or as members of the JSON object.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

LOGGER_NAME: Final = "callstate_sidecar"

# sd-daemon(3): `<N>` before a line is its syslog priority.
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7

# The attributes of every record; any other was passed as `extra`.
_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Formatter(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = self.render(record)
        if not self._journal:
            return text
        # The journal takes each line as an entry, so the lines of a traceback need the priority as well.
        prefix = f"<{_priority(record.levelno)}>"
        return "\n".join(prefix + line for line in text.split("\n"))

    def render(self, record: logging.LogRecord) -> str:
        raise NotImplementedError

    def traceback(self, record: logging.LogRecord) -> str:
        """The record's traceback and stack, if any."""
        parts = []
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(parts)


class TextFormatter(_Formatter):
    """`12:00:00.123 INFO    message  key=value …`; without time and level where systemd's journal adds its own."""

    def render(self, record: logging.LogRecord) -> str:
        """The record as one line, followed by its traceback, if any."""
        line = " ".join([_one_line(record.getMessage()), *(f"{k}={_plain(v)}" for k, v in _extra(record).items())])
        if not self._journal:
            line = f"{_local_time(record)} {record.levelname:<7} {line}"
        trace = self.traceback(record)
        return f"{line}\n{trace}" if trace else line


class JsonFormatter(_Formatter):
    """One object per line: `time`, `level`, `logger`, `message`, the `extra` details, and `exception`."""

    def render(self, record: logging.LogRecord) -> str:
        """The record as one JSON object."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, object] = {
            "time": at.removesuffix("+00:00") + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in _extra(record).items() if name not in entry}
        trace = self.traceback(record)
        if trace:
            entry["exception"] = trace
        return json.dumps(entry, default=str)


class _OwnHandler(logging.StreamHandler[TextIO]):
    """A separate class, so that a reload replaces only this handler."""


def configure_logging(level: str, style: str, environ: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Send all logs of this process to stderr; another call (a reload) replaces the settings.

    The level applies to the daemon's own loggers; from libraries only warnings and errors are shown.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        style: `text` or `json`.
        environ: contains $JOURNAL_STREAM under systemd.
        stream: used instead of stderr.
    """
    target = sys.stderr if stream is None else stream
    formatter = JsonFormatter if style == "json" else TextFormatter
    handler = _OwnHandler(target)
    handler.setFormatter(formatter(journal=goes_to_journal(target, environ)))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _OwnHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger(LOGGER_NAME).setLevel(level.upper())


def goes_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream goes to systemd's journal: $JOURNAL_STREAM is its device and inode (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not a file at all
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _OWN_ATTRIBUTES}


def _local_time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.") + f"{int(record.msecs):03d}"


def _one_line(text: str) -> str:
    """Escape line breaks: text from outside (an id, a reason) must not look like another log line."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
