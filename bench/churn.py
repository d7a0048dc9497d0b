"""An hour of coming and going within a minute: does the daemon's memory grow by anything that is over?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from bench.compare import pool
from bench.documents import document, documents, history
from bench.processes import Rig, Server
from bench.raw import Raw, add_turn, beat, fill, line, save
from bench.sampling import Spread
from bench.targets import Verdict

TURNS: Final = 20
SHORT_TURNS: Final = 2
"""Of the sessions that come and go: what they leave behind does not hang on their length, and long ones in passing
make holes in the heap, which look like growth for a while."""

STANDING: Final = 100
"""Sessions that are there all the time."""

SETTLED_WITHIN_S: Final = 60.0
LOOK_EVERY_S: Final = 0.05

OPTIONS: Final = {
    "reaper.retention_s": "0.1", "reaper.grace_s": "0.1", "reaper.reconnect_grace_s": "0.1",
    "reaper.tick_s": "0.02",
    "limits.events": "1000",  # full before the first sample is taken
    "store.flush_interval_s": "0.05", "store.beat_interval_s": "0.2",
}  # fmt: skip

SILENT_S: Final = 0.2
"""After so long a session that is left alone is suspected."""

GONE: Final = {
    "suspects": 0, "orphans": 0, "workers": 0, "subscribers": 0, "connections": 1, "dirty": 0, "dirty_bytes": 0,
    "quarantined": 0,
}  # fmt: skip
"""What `server.stats` tells of the daemon's maps when only what stays is there, and the connection that asks."""

WARM_UP: Final = 4
"""Steps of a kind before the first sample: the pools of the allocator are full then."""


@dataclass(frozen=True)
class Churn:
    """How much, in all.

    Args:
        requests: about sessions that stay.
        sessions: created, used, and ended, deleted or left to the reaper.
        limited: same, with a maximal duration that they do not reach.
        connections: opened, used, closed.
        misses: loads of sessions that nobody has.
        workers: registered, owner of a session, subscriber of events, and gone.
        samples: of memory, for each of these, after four steps that are not counted.
        remembered: misses before those that are measured. The daemon remembers 10,000 at most, for a second.
    """

    requests: int = 200_000
    sessions: int = 20_000
    limited: int = 5_000
    connections: int = 5_000
    misses: int = 20_000
    workers: int = 6_000
    samples: int = 10
    remembered: int = 10_500

    def step(self, kind: str) -> int:
        """How many of a kind in one step."""
        whole: int = getattr(self, kind)
        return whole // self.samples


LIMITS_BYTES: Final[Mapping[str, float]] = {
    "requests": 2, "sessions": 50, "limited": 100, "connections": 100, "misses": 50, "workers": 250,
}  # fmt: skip
"""Each kind of thing, and growth that is still noise: memory comes and goes by half a megabyte, and the fewer
things, the more of that falls on each. The smallest thing that could be forgotten, a float in a dict, takes a
hundred bytes."""


@dataclass(frozen=True)
class Growth:
    """One kind of thing, and the daemon's memory after each step of as many."""

    kind: str
    step: int
    rss_bytes: Sequence[int]

    @property
    def per_item_bytes(self) -> float:
        """The slope of a straight line through the samples (least squares), for one thing."""
        count = len(self.rss_bytes)
        middle, mean = (count - 1) / 2, sum(self.rss_bytes) / count
        rise = sum((number - middle) * (size - mean) for number, size in enumerate(self.rss_bytes))
        return rise / sum((number - middle) ** 2 for number in range(count)) / self.step


def settings() -> Iterator[str]:
    """Arguments of a daemon where everything is over soon."""
    return chain.from_iterable(("--set", f"{key}={value}") for key, value in OPTIONS.items())


def churn(rig: Rig, store: Server | None, amount: Churn) -> Iterator[Growth]:
    """One kind after the other on one daemon, which must be empty again in the end.

    Args:
        rig: where.
        store: a Redis; None: SQLite.
        amount: how much.
    """
    server = rig.daemon(f"churn-{'redis' if store else 'sqlite'}", store, *settings())
    churning = Churning(server)
    for kind in LIMITS_BYTES:
        if kind == "misses":
            churning.steps[kind](amount.remembered)
        sizes: list[int] = []
        for number in range(-WARM_UP, amount.samples):
            churning.steps[kind](amount.step(kind))
            churning.settle()
            if number >= 0:
                sizes.append(server.rss_bytes())
        yield Growth(kind, amount.step(kind), sizes)
    churning.leave()
    rig.end(server)


class Churning:
    """What one step does, by kind.

    Args:
        server: a daemon with `settings()`; it gets the standing sessions now.
    """

    def __init__(self, server: Server) -> None:
        fill(server, documents(pool(TURNS, STANDING), TURNS))
        self._server = server
        self._raw = Raw(server)
        self._made = 0
        self._standing = pool(TURNS, STANDING)
        self._turns = history(SHORT_TURNS)
        self.steps: Mapping[str, Callable[[int], None]] = {
            "requests": self._requests, "sessions": self._sessions, "limited": self._limited,
            "connections": self._connections, "misses": self._misses, "workers": self._workers,
            "expired": self._expired,
        }  # fmt: skip

    def _fresh(self, count: int) -> list[str]:
        self._made += count
        return [f"fresh-{number:08d}" for number in range(self._made - count, self._made)]

    def _requests(self, count: int) -> None:
        """Of each kind that leaves a session as long as it is, and some that are refused."""

        def lines() -> Iterator[bytes]:
            for number in range(count // 8):
                one = self._standing[number % STANDING]
                about = f'{{"session_id":"{one}"'
                yield beat(one)
                yield line("session.load", f"{about}}}")
                yield line("session.load", f'{about},"history":"none"}}')
                yield line("session.update", f'{about},"set":{{"call_id":"CA{number}"}},"op":"{number}"}}')
                yield line("session.amend_turn", f'{about},"set":{{"content":"said {number}"}}}}')
                yield line("session.record_interruption", f'{about},"op":"i{number}"}}')
                yield line("session.list_active", '{"limit":10}')
                yield line("server.ping")

        self._raw.tell(lines())

    def _sessions(self, count: int, more: str = "") -> None:
        """Each comes, is used, and goes: ended, deleted, or left to the reaper."""

        def life(number: int, one: str) -> Iterator[bytes]:
            about = f'{{"session_id":"{one}"}}'
            silent = number % 3 == 0
            labels = f',"labels":{{"number":"{number}"}}' + (f',"heartbeat_timeout_s":{SILENT_S}' if silent else "")
            yield save(document(one, SHORT_TURNS, self._turns), labels + more)
            yield add_turn(one)
            yield line("session.load", about)
            yield beat(one)
            if not silent:
                yield line("session.end" if number % 3 == 1 else "session.delete", about)

        self._raw.tell(chain.from_iterable(life(number, one) for number, one in enumerate(self._fresh(count))))

    def _limited(self, count: int) -> None:
        self._sessions(count, ',"max_duration_s":300000000')

    def _expired(self, count: int) -> None:
        """Each comes, and is left to the reaper."""
        silent = f',"heartbeat_timeout_s":{SILENT_S}'
        self._raw.tell(save(document(one, SHORT_TURNS, self._turns), silent) for one in self._fresh(count))

    def _connections(self, count: int) -> None:
        """Each asks for something and hangs up, some within a line."""
        for number in range(count):
            with Raw(self._server) as raw:
                raw.tell([beat(self._standing[number % STANDING])])
                if number % 2:
                    raw.socket.sendall(b'{"jsonrpc":"2.0","id":1,')

    def _misses(self, count: int) -> None:
        """Each of a session that is nowhere."""
        for start in range(0, count, STANDING):
            ids = self._fresh(min(STANDING, count - start))
            self._raw.socket.sendall(b"".join(line("session.load", f'{{"session_id":"{one}"}}') for one in ids))
            for _ in ids:
                self._raw.refusal()

    def _workers(self, count: int) -> None:
        """Each registers, listens to events, owns a session, and leaves."""
        for one in self._fresh(count):
            with Raw(self._server) as raw:
                raw.call("worker.register", worker_id=one)
                raw.call("session.save", session=json.loads(document(one, 1)))
                raw.call("session.end", session_id=one)
                raw.call("events.subscribe")

    def settle(self, standing: int = STANDING) -> None:
        """Wait until all that came is gone.

        Raises:
            TimeoutError: something stays.
        """
        expected = {"sessions": {"active": standing} if standing else {}} | GONE
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while (left := {name: self._raw.call("server.stats")[name] for name in expected}) != expected:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not gone after {SETTLED_WITHIN_S:.0f} s: {left}")
            time.sleep(LOOK_EVERY_S)

    def leave(self) -> None:
        """The standing sessions are deleted too; then nothing may be left."""
        self._raw.tell(line("session.delete", f'{{"session_id":"{one}"}}') for one in self._standing)
        self.settle(0)
        self._raw.close()


def growths_json(growths: Mapping[str, Sequence[Growth]]) -> dict[str, list[dict[str, Any]]]:
    """For the JSON."""
    return {
        store: [
            {
                "kind": growth.kind,
                "count": growth.step * len(growth.rss_bytes),
                "bytes_each": round(growth.per_item_bytes, 2),
                "rss_bytes": [*growth.rss_bytes],
            }
            for growth in kinds
        ]
        for store, kinds in growths.items()
    }


def verdicts(growths: Mapping[str, Sequence[Growth]]) -> Iterator[Verdict]:
    """One a store and kind."""
    for store, kinds in growths.items():
        for growth in kinds:
            name = f"growth by one of {growth.step * len(growth.rss_bytes):,} {growth.kind}, {store}"
            mega = [size / 1e6 for size in growth.rss_bytes]
            note = f"{mega[0]:.1f} to {mega[-1]:.1f} MB"
            value = Spread.of([growth.per_item_bytes])
            yield Verdict(name, value, LIMITS_BYTES[growth.kind], unit=" B", note=note)
