"""The daemon's only way to log: every line names its event, a short identifier that stays when the words change.

Callers decide what goes into a line: session ids, host ids, counts, reasons and timings are allowed; a transcript,
a phone number (`from`, `to`), `recovery_data`, or a URL that has not passed `redact_url` never are.
docs/operations.md lists all events, and tests/unit/sidecar/logs/test_events.py compares both.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Final

LOGGER_NAME: Final = "callstate_sidecar"

LIBRARY: Final = "library"
"""The event of lines that others log: asyncio, the Redis client."""

EVENT: Final = "event"
FIELDS: Final = "fields"
MUST: Final = "must"


class EventLog:
    """Logs under the name of a module.

    In each method `event` is the line's event, `message` and `args` are the line as for the methods of
    logging.Logger, and `fields` are details that JSON and the journal show by name: `session_id`, `host`, `error`.
    They repeat what the line says in words, as the text format shows the line and its event alone.

    Args:
        name: of the module, `__name__`.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, message: str, *args: object, **fields: object) -> None:
        """Log what helps to find a fault."""
        self._log(logging.DEBUG, event, message, args, None, fields)

    def info(self, event: str, message: str, *args: object, must: bool = False, **fields: object) -> None:
        """Log what an operator may want to know; `must`: however many lines of this event there were before."""
        self._log(logging.INFO, event, message, args, None, fields, must=must)

    def warning(self, event: str, message: str, *args: object, **fields: object) -> None:
        """Log what an operator should look at."""
        self._log(logging.WARNING, event, message, args, None, fields)

    def error(
        self, event: str, message: str, *args: object, exc_info: BaseException | None = None, **fields: object
    ) -> None:
        """Log what an operator has to mend, with the traceback of its cause if that is a bug of ours."""
        self._log(logging.ERROR, event, message, args, exc_info, fields)

    def exception(self, event: str, message: str, *args: object, **fields: object) -> None:
        """Log the exception that is being handled, a bug of ours, with its traceback."""
        self._log(logging.ERROR, event, message, args, sys.exception(), fields)

    def critical(
        self, event: str, message: str, *args: object, exc_info: BaseException | None = None, **fields: object
    ) -> None:
        """Log why the daemon stops; likewise."""
        self._log(logging.CRITICAL, event, message, args, exc_info, fields)

    def at(self, level: int, event: str, message: str, *args: object, **fields: object) -> None:
        """Log at a level that the caller knows only now."""
        self._log(level, event, message, args, None, fields)

    def _log(
        self,
        level: int,
        event: str,
        message: str,
        args: tuple[object, ...],
        exc_info: BaseException | None,
        fields: Mapping[str, object],
        *,
        must: bool = False,
    ) -> None:
        if self._logger.isEnabledFor(level):
            extra = {EVENT: event, FIELDS: fields, MUST: must}
            self._logger.log(level, message, *args, exc_info=exc_info, stacklevel=3, extra=extra)


def event_of(record: logging.LogRecord) -> str:
    """The event of a line."""
    return str(getattr(record, EVENT, LIBRARY))


def is_unlimited(record: logging.LogRecord) -> bool:
    """Whether a line is logged however many of its event there were before."""
    return bool(getattr(record, MUST, False))


def fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    """The details of a line."""
    fields: Mapping[str, object] = getattr(record, FIELDS, {})
    return fields
