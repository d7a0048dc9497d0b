"""What systemd and a daemon of Type=notify say to each other: readiness, sockets, watchdog. No dependency.

sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3). Nothing here touches `os.environ` by itself: the
environment is passed in, and what was consumed is removed from it, so that no child takes it for its own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Final

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_LISTEN_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

# For a moment the manager may not read: a notification is worth a wait, but never a hung daemon.
_SEND_TIMEOUT_S: Final = 1.0


class Notifier:
    """Sends the manager notifications; does nothing where there is no manager.

    Nothing is raised when the manager can't be reached: a daemon that serves is worth more than one that says so.

    Args:
        environ: where $NOTIFY_SOCKET is: a path, or with a leading @ an abstract socket.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # vsock: and the like are for virtual machines; there the manager's own agent speaks for us.
        self._address = address if address[:1] in ("/", "@") and len(address) > 1 else ""

    @property
    def enabled(self) -> bool:
        """Whether anybody listens for notifications."""
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """Start-up (or a reload) is done: the daemon serves."""
        self._send("READY=1", status=status)

    def stopping(self, status: str = "") -> None:
        """The daemon has begun to stop."""
        self._send("STOPPING=1", status=status)

    def reloading(self) -> None:
        """The daemon has begun to reload; `ready` ends it. The time lets systemd match the two."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def watchdog(self) -> None:
        """The daemon is alive."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(status=text)

    def extend_timeout(self, seconds: float, status: str = "") -> None:
        """Start or stop takes longer: at least so long from now, before systemd gives up."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}", status=status)

    def _send(self, message: str = "", *, status: str = "") -> None:
        if not self._address:
            return
        if status:
            # One assignment a line: a newline in the text would begin another one.
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

    They are made non-inheritable, and the variables are removed: a child must not take them for its own.

    Args:
        environ: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are read from it and removed.
        pid: this process's id; given in tests.

    Raises:
        ValueError: the variables contradict each other, or a descriptor is no socket.
    """
    listen_pid, count, names = (environ.pop(variable, "") for variable in _LISTEN_VARIABLES)
    if not listen_pid or not count or listen_pid != str(os.getpid() if pid is None else pid):
        return {}
    if not count.isascii() or not count.isdigit():
        raise ValueError(f"LISTEN_FDS: expected a number, got {count!r}")
    fds = range(_FIRST_FD, _FIRST_FD + int(count))
    # sd_listen_fds_with_names(3): "unknown" where the manager sent no names.
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
    """How often to call `Notifier.watchdog`: half of what systemd allows. None: no watchdog for this process."""
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isascii() or not usec.isdigit() or int(usec) == 0:
        return None
    if environ.get("WATCHDOG_PID", "") not in ("", str(os.getpid() if pid is None else pid)):
        return None
    return int(usec) / 2_000_000
