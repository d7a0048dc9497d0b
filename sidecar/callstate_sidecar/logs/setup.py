"""Where the daemon's log goes, and in which form."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TextIO

from callstate_sidecar.logs.event_log import EVENT, FIELDS, LIBRARY, LOGGER_NAME, event_of, is_unlimited
from callstate_sidecar.logs.journald import JOURNAL_SOCKET, JournaldSink
from callstate_sidecar.logs.lines import JsonFormatter, TextFormatter
from callstate_sidecar.logs.repetition import Repetition, Suppressed

REPORT_S: Final = 10.0
"""How often the daemon looks for windows that have ended, seconds."""

Sink = Callable[[logging.LogRecord], None]


class DaemonHandler(logging.Handler):
    """All that the daemon logs, with repetition limited.

    Args:
        sink: writes a line.
        repetition: decides which.
        clock: a monotonic clock, seconds.
        done: called when it is closed.
    """

    def __init__(
        self, sink: Sink, repetition: Repetition, clock: Callable[[], float], done: Callable[[], None]
    ) -> None:
        super().__init__()
        self._sink = sink
        self._repetition = repetition
        self._clock = clock
        self._done = done

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, unless there were too many of its event."""
        try:
            now = self._clock()
            self._tell(self._repetition.ended(now))
            event = event_of(record)
            # lines of libraries are told apart by who wrote them
            key = f"{LIBRARY} {record.name}" if event == LIBRARY else event
            if is_unlimited(record) or self._repetition.admits(key, record.levelno, now):
                self._sink(record)
        except Exception:  # noqa: BLE001 - as logging's own handlers do: a fault in logging must not end a call
            self.handleError(record)

    def report(self) -> None:
        """Log what was suppressed in windows that have ended."""
        self.acquire()
        try:
            self._tell(self._repetition.ended(self._clock()))
        finally:
            self.release()

    def close(self) -> None:
        """Log what was suppressed until now; nothing is logged afterwards."""
        self.acquire()
        try:
            self._tell(self._repetition.rest(self._clock()))
            self._done()
        finally:
            self.release()
        super().close()

    def _tell(self, suppressed: Iterable[Suppressed]) -> None:
        for each in suppressed:
            self._sink(_summary(each))


def configure_logging(
    level: str,
    style: str,
    burst: int,
    environ: Mapping[str, str],
    stream: TextIO | None = None,
    *,
    journal_socket: Path = JOURNAL_SOCKET,
    clock: Callable[[], float] = time.monotonic,
) -> DaemonHandler:
    """Send all logs of this process to one place; another call (a reload) replaces the settings.

    The level applies to the daemon's own loggers; from libraries only warnings and errors are shown.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        style: `text` or `json`, on stderr; `journald`: systemd's journal over its own protocol; `auto`: that if
            stderr is connected to the journal, else text.
        burst: how many lines of one event are logged in a minute; 0: all.
        environ: contains $JOURNAL_STREAM under systemd.
        stream: used instead of stderr.
        journal_socket: of the journal.
        clock: a monotonic clock, seconds.

    Raises:
        OSError: `journald` is asked for, and is not there; the settings are unchanged.
    """
    target = sys.stderr if stream is None else stream
    sink, done = _sink(style, target, goes_to_journal(target, environ), journal_socket)
    handler = DaemonHandler(sink, Repetition(burst), clock, done)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, DaemonHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    logging.getLogger(LOGGER_NAME).setLevel(level.upper())
    return handler


def report_suppressed() -> None:
    """Log what was suppressed in windows that have ended."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, DaemonHandler):
            handler.report()


def goes_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream goes to systemd's journal: $JOURNAL_STREAM is its device and inode (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not a file at all
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _sink(style: str, stream: TextIO, to_journal: bool, journal_socket: Path) -> tuple[Sink, Callable[[], None]]:
    """What writes a line, and what ends it."""
    text = _stream_sink(TextFormatter(journal=to_journal), stream)
    if style == "journald" or (style == "auto" and to_journal):
        try:
            journald = JournaldSink(journal_socket, otherwise=text)
        except OSError:
            if style == "journald":
                raise
        else:
            return journald, journald.close
    if style == "json":
        return _stream_sink(JsonFormatter(journal=to_journal), stream), _nothing
    return text, _nothing


def _stream_sink(formatter: logging.Formatter, stream: TextIO) -> Sink:
    def write(record: logging.LogRecord) -> None:
        stream.write(formatter.format(record) + "\n")
        stream.flush()

    return write


def _summary(suppressed: Suppressed) -> logging.LogRecord:
    """A line of the same event that says how many there were."""
    event, lines, level, window_s = suppressed
    text = f"{event}: {lines} more lines like this were suppressed in {window_s:.0f} s"
    record = logging.LogRecord(f"{LOGGER_NAME}.logs", level, __file__, 0, text, None, None)
    setattr(record, EVENT, event.partition(" ")[0])
    setattr(record, FIELDS, {"suppressed": lines})
    return record


def _nothing() -> None:
    pass
