"""A stand-in for systemd at the other end of $NOTIFY_SOCKET."""

from __future__ import annotations

import socket

PATIENCE_S = 20.0


class ServiceManager:
    """Receives notifications.

    Args:
        address: a path, or with a leading @ an abstract socket.
    """

    def __init__(self, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(PATIENCE_S)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def received(self) -> list[str]:
        """The lines of the next notification."""
        return self._socket.recv(4096).decode().split("\n")

    def received_until(self, line: str) -> list[str]:
        """All lines up to the notification that has this one."""
        lines: list[str] = []
        while line not in lines:
            lines += self.received()
        return lines

    def received_nothing(self) -> bool:
        """Whether no notification is pending."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(PATIENCE_S)
        return False

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
