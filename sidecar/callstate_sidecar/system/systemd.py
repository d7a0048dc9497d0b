"""The protocol between systemd and a daemon of Type=notify: readiness, sockets, watchdog. No dependency.

See sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3). The environment is passed in, and variables that were
consumed are removed from it, so that no child process applies them to itself.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Final

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_LISTEN_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

# The manager may be busy for a moment: a notification is worth a short wait, but must never hang the daemon.
_SEND_TIMEOUT_S: Final = 1.0


class Notifier:
    """Sends notifications to the service manager; does nothing without one.

    It never raises: serving is more important than reporting it.

    Args:
        environ: contains $NOTIFY_SOCKET under systemd: a path, or an abstract socket with a leading @.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # addresses such as vsock: are for the managers of virtual machines themselves
        self._address = address if address[:1] in ("/", "@") and len(address) > 1 else ""

    @property
    def enabled(self) -> bool:
        """Whether there is a manager."""
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """The start (or a reload) is complete, and the daemon serves."""
        self._send("READY=1", status=status)

    def stopping(self, status: str = "") -> None:
        """The daemon is stopping."""
        self._send("STOPPING=1", status=status)

    def reloading(self) -> None:
        """The daemon is reloading, until `ready`. The time lets systemd match the two."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def watchdog(self) -> None:
        """The daemon is alive."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(status=text)

    def extend_timeout(self, seconds: float, status: str = "") -> None:
        """Ask systemd to allow this much more time, from now, for the start or stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}", status=status)

    def _send(self, message: str = "", *, status: str = "") -> None:
        if not self._address:
            return
        if status:
            # one assignment per line: a newline in the text would begin another
            message = f"{message}\nSTATUS={' '.join(status.split())}".lstrip("\n")
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(_SEND_TIMEOUT_S)
            try:
                channel.sendto(message.encode(), address)
            except OSError:
                return


def listen_fds(environ: MutableMapping[str, str], pid: int | None = None) -> dict[str, list[socket.socket]]:
    """The sockets systemd passes to this process, by name (`FileDescriptorName=`, or the socket unit's name).

    They are made non-inheritable, and the variables are removed.

    Args:
        environ: contains LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES under systemd.
        pid: this process's id; for tests.

    Raises:
        ValueError: the variables contradict each other, or a descriptor is not a socket.
    """
    listen_pid, count, names = (environ.pop(variable, "") for variable in _LISTEN_VARIABLES)
    if not listen_pid or not count or listen_pid != str(os.getpid() if pid is None else pid):
        return {}
    if not count.isascii() or not count.isdigit():
        raise ValueError(f"LISTEN_FDS: expected a number, got {count!r}")
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    # sd_listen_fds_with_names(3): "unknown" if the manager sent no names
    named = names.split(":") if names else ["unknown"] * len(fds)
    if len(named) != len(fds):
        raise ValueError(f"LISTEN_FDNAMES: expected {len(fds)} names, got {names!r}")
    sockets: dict[str, list[socket.socket]] = {}
    for fd, name in zip(fds, named, strict=True):
        try:
            os.set_inheritable(fd, False)
            sockets.setdefault(name, []).append(socket.socket(fileno=fd))
        except OSError as error:
            raise ValueError(f"LISTEN_FDS: descriptor {fd} ({name}): {error.strerror}") from error
    return sockets


def watchdog_interval_s(environ: Mapping[str, str], pid: int | None = None) -> float | None:
    """How often to call `Notifier.watchdog`: half of what systemd allows; None if there is no watchdog."""
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isascii() or not usec.isdigit() or int(usec) == 0:
        return None
    if environ.get("WATCHDOG_PID", "") not in ("", str(os.getpid() if pid is None else pid)):
        return None
    return int(usec) / 2_000_000
