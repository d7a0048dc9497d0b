"""Load that leaves nothing behind in a daemon: requests, connections, workers, and sessions left to the reaper."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Final

from bench.documents import document, documents, history
from bench.wire import Wire, heartbeat, line, save

from support.daemon import Daemon

TURNS: Final = 20
SHORT_TURNS: Final = 2
"""Turns of short-lived sessions: what they leave behind does not depend on their length."""

STANDING: Final = 100
"""Sessions that exist all the time."""

SETTLED_WITHIN_S: Final = 60.0
STAYING: Final = ',"heartbeat_timeout_s":3600'
"""Members of the saves of standing sessions: they stay, however long a step takes on a busy machine."""

LOOK_EVERY_S: Final = 0.05

SILENT_S: Final = 0.2
"""The heartbeat timeout of sessions that are left to the reaper."""

SETTINGS: Final = [
    argument
    for setting in (
        "reaper.retention_s=0.1", "reaper.grace_s=0.1", "reaper.reconnect_grace_s=0.1", "reaper.tick_s=0.02",
        "limits.events=10", "store.flush_interval_s=0.05", "store.beat_interval_s=0.2",
    )
    for argument in ("--set", setting)
]  # fmt: skip
"""Arguments of a daemon in which everything expires soon."""

GONE: Final = {
    "suspects": 0, "orphans": 0, "workers": 0, "subscribers": 0, "connections": 1, "dirty": 0, "dirty_bytes": 0,
    "quarantined": 0,
}  # fmt: skip
"""`server.stats` when only the standing sessions and the connection that asks are left."""


class Churning:
    """The steps of the load, by kind.

    Args:
        daemon: with SETTINGS; the standing sessions are created at once.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._target = SimpleNamespace(path=daemon.socket)
        self._wire = self._connect()
        self._made = 0
        self._standing = [f"standing-{number}" for number in range(STANDING)]
        self._wire.send_all(save(text, STAYING) for text in documents(self._standing, TURNS).values())
        self._turns = history(SHORT_TURNS)
        self.steps: Mapping[str, Callable[[int], None]] = {
            "requests": self._requests, "connections": self._connections, "workers": self._workers,
            "expired": self._expired,
        }  # fmt: skip

    def _connect(self) -> Wire:
        return Wire(self._target)  # type: ignore[arg-type]  # of a server it needs the path alone

    def _fresh(self, count: int) -> list[str]:
        self._made += count
        return [f"fresh-{number:08d}" for number in range(self._made - count, self._made)]

    def _requests(self, count: int) -> None:
        """Send requests of each kind that does not make a session longer, and some that are refused."""

        def lines() -> Iterator[bytes]:
            for number in range(count // 8):
                one = self._standing[number % STANDING]
                about = f'{{"session_id":"{one}"'
                yield heartbeat(one)
                yield line("session.load", f"{about}}}")
                yield line("session.load", f'{about},"history":"none"}}')
                yield line("session.update", f'{about},"set":{{"call_id":"CA{number}"}},"op":"{number}"}}')
                yield line("session.amend_turn", f'{about},"set":{{"content":"said {number}"}}}}')
                yield line("session.record_interruption", f'{about},"op":"i{number}"}}')
                yield line("session.list_active", '{"limit":10}')
                yield line("server.ping")

        self._wire.send_all(lines())

    def _expired(self, count: int) -> None:
        """Create sessions that are left to the reaper."""
        silent = f',"heartbeat_timeout_s":{SILENT_S}'
        self._wire.send_all(save(document(one, SHORT_TURNS, self._turns), silent) for one in self._fresh(count))

    def _connections(self, count: int) -> None:
        """Connections that send a request and are closed, some in the middle of a line."""
        for number in range(count):
            with self._connect() as wire:
                wire.send_all([heartbeat(self._standing[number % STANDING])])
                if number % 2:
                    wire.socket.sendall(b'{"jsonrpc":"2.0","id":1,')

    def _workers(self, count: int) -> None:
        """Workers that register, subscribe to events, own a session, and disconnect."""
        for one in self._fresh(count):
            with self._connect() as wire:
                wire.call("worker.register", worker_id=one)
                wire.call("session.save", session=json.loads(document(one, 1)))
                wire.call("session.end", session_id=one)
                wire.call("events.subscribe")

    def settle(self, standing: int = STANDING) -> None:
        """Wait until nothing of the load is left.

        Raises:
            TimeoutError: something was not removed.
        """
        expected = {"sessions": {"active": standing} if standing else {}} | GONE
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while (left := {name: self._wire.call("server.stats")[name] for name in expected}) != expected:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not removed after {SETTLED_WITHIN_S:.0f} s: {left}")
            time.sleep(LOOK_EVERY_S)

    def leave(self) -> None:
        """Delete the standing sessions too, after which nothing may be left."""
        self._wire.send_all(line("session.delete", f'{{"session_id":"{one}"}}') for one in self._standing)
        self.settle(0)
        self._wire.close()
