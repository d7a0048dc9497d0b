"""systemd's journal over its native protocol: a datagram for each line, with the line's details as fields.

The protocol is systemd's "Native Journal Protocol": `NAME=value` and a newline for each field, or, for a value
with newlines, the name, a newline, its length as 64 bits little-endian, the value and a newline. An entry too
large for a datagram goes into a sealed memfd, whose descriptor is sent alone.

Nothing here waits, for the loop that logs serves calls: if the journal does not keep up, lines are dropped and
counted.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from callstate_sidecar.logs.event_log import event_of, fields_of
from callstate_sidecar.logs.lines import one_line, priority, traceback

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")

IDENTIFIER: Final = "callstated"

SEND_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""What libsystemd asks for; the kernel grants net.core.wmem_max of it."""

VALUE_BYTES: Final = 1024 * 1024
"""The longest value sent; journald cuts fields at 768 MiB, and nobody reads a line of a megabyte."""

_TOO_LARGE: Final = (errno.EMSGSIZE, errno.ENOBUFS)


class JournaldSink:
    """Sends lines to the journal.

    Args:
        path: of the journal's socket.
        otherwise: takes a line when the journal is not there.

    Raises:
        OSError: the journal is not there.
    """

    def __init__(self, path: Path, otherwise: Callable[[logging.LogRecord], None]) -> None:
        self._path = str(path)
        self._otherwise = otherwise
        self._dropped = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
                probe.connect(self._path)
        except OSError as error:
            self._socket.close()
            error.filename = self._path
            raise

    def __call__(self, record: logging.LogRecord) -> None:
        """Send one line."""
        dropped, fields = self._dropped, entry(record)
        if dropped:
            fields.append(("CALLSTATE_LINES_DROPPED", str(dropped)))
        try:
            self._send(encode(fields))
        except BlockingIOError:
            self._dropped += 1
        except OSError:
            self._otherwise(record)
        else:
            self._dropped -= dropped

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, data: bytes) -> None:
        # to the path each time: a journal that has been restarted may have another socket there
        try:
            self._socket.sendto(data, self._path)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            self._send_as_file(data)

    def _send_as_file(self, data: bytes) -> None:
        fd = os.memfd_create("callstate-log", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([], [rights], 0, self._path)
        finally:
            os.close(fd)


def entry(record: logging.LogRecord) -> list[tuple[str, str]]:
    """A line as the journal's fields."""
    trace = traceback(record)
    message = one_line(record.getMessage())
    fields = [
        ("MESSAGE", f"{message}\n{trace}" if trace else message),
        ("PRIORITY", str(priority(record.levelno))),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        ("CALLSTATE_EVENT", event_of(record)),
        ("LOGGER", record.name),
        ("CODE_FILE", record.pathname),
        ("CODE_LINE", str(record.lineno)),
        ("CODE_FUNC", record.funcName or ""),
    ]
    if trace:
        fields.append(("EXCEPTION", trace))
    taken = {name for name, _ in fields}
    fields += [
        (name, str(value))
        for name, value in ((each.upper(), value) for each, value in fields_of(record).items())
        if name not in taken
    ]
    return fields


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Fields as the datagram of an entry. Names are capital letters, digits and underscores."""
    parts = []
    for name, value in fields:
        data = value.encode("utf-8", "backslashreplace")[:VALUE_BYTES]
        if b"\n" in data:
            parts += [name.encode(), b"\n", struct.pack("<Q", len(data)), data, b"\n"]
        else:
            parts += [name.encode(), b"=", data, b"\n"]
    return b"".join(parts)
