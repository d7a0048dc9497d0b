"""The longest turn of the daemon's loop, for each kind of work that touches many sessions or much of one.

While a turn lasts nobody is answered. The daemon is run by bench.watched, which times each turn; the kinds of work
come one at a time, over a daemon full of sessions, with Redis behind it.
"""

from __future__ import annotations

import json
import mmap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

from bench.burdens import Checkpoint, checkpoint_at
from bench.compare import pool
from bench.documents import documents
from bench.processes import Rig, awake
from bench.raw import PATIENCE_S, Raw, add_turn, fill, line, save
from bench.report import spread
from bench.sampling import Spread
from bench.tables import LOOP_GOAL_MS
from bench.targets import Verdict
from bench.watched import LONGEST

SETTLE_S: Final = 0.5
"""How long the daemon is left alone after each kind of work, for what follows from it."""

LOOK_EVERY_S: Final = 0.02

IDS_A_LINE: Final = 500
"""Heartbeats of one request, as a worker with many calls sends them."""

BEAT_INTERVAL_S: Final = 2.0
GRACE_S: Final = 0.2

BIG_TURN_BYTES: Final = 60_000
BIG_TURNS: Final = 20
BIG_EVERY_S: Final = 0.1
"""How the big session is talked to."""


@dataclass(frozen=True)
class Longest:
    """The longest turn during one kind of work, seconds: on the wall, and of the loop's thread on a processor."""

    name: str
    wall_s: float
    processor_s: float


class Watched:
    """A daemon full of sessions whose turns are timed.

    Args:
        rig: where it runs.
        sessions: how many there are, of 20 turns each.
        big_bytes: the size of one more: near `limits.session_bytes`.
    """

    def __init__(self, rig: Rig, sessions: int, big_bytes: int) -> None:
        self._big_bytes = big_bytes
        self.ids = pool(20, sessions)
        kept = documents(self.ids, 20)
        path = rig.root / "turns.watched"
        self._redis = rig.redis()
        self.server = rig.daemon(
            "turns", self._redis, *checkpoint_at(kept), "--set", f"store.beat_interval_s={BEAT_INTERVAL_S}",
            "--set", f"reaper.reconnect_grace_s={GRACE_S}", module=("bench.watched", str(path)),
        )  # fmt: skip
        with path.open("r+b") as file:
            self._found = mmap.mmap(file.fileno(), LONGEST.size)
        fill(self.server, kept)
        self._checkpoint = Checkpoint(self.server, rig.root / "turns" / "journal", kept)
        self._raw = Raw(self.server)

    def measure(self, name: str, work: Callable[[], None]) -> Longest:
        """Do it, and give the longest turn until a moment after."""
        LONGEST.pack_into(self._found, 0, 0.0, 0.0)
        work()
        time.sleep(SETTLE_S)
        return Longest(name, *LONGEST.unpack_from(self._found))

    def each(self) -> Iterator[Longest]:
        """All kinds of work, one after the other."""
        count = f"{len(self.ids):,}"
        yield self.measure("nothing to do", lambda: None)
        yield self.measure(f"heartbeats of {count} sessions are written to the store", self._beats)
        self._turns(self.ids)
        yield self.measure(f"`server.flush` of {count} changed sessions", self._flush)
        yield self.measure("`session.list_active`, this host's, all pages", self._pages("session.list_active"))
        everywhere = self._pages("session.list_active", scope="all", limit=10_000)
        yield self.measure("`session.list_active`, every host's, all pages", everywhere)
        yield self.measure("`session.list`, all pages", self._pages("session.list"))
        yield self.measure("`session.list` that finds nothing", self._pages("session.list", provider="nobody"))
        yield self.measure("`server.stats`", self._stats)
        self._checkpoint.prepare()
        yield self.measure("a checkpoint", self._checkpoint.bear)
        yield from self._leaving(len(self.ids) // 2)
        yield self.measure(f"a session of {self._big_bytes / 1e6} MB, ten turns a second", self._big)

    def close(self) -> None:
        """Let go of it."""
        self._raw.close()
        self._found.close()

    def _turns(self, session_ids: Sequence[str]) -> None:
        self._raw.tell(map(add_turn, session_ids))

    def _beats(self) -> None:
        with Redis(unix_socket_path=str(self._redis.path)) as redis:
            began = int(time.time() * 1000)  # as the scores, which are whole milliseconds
            for start in range(0, len(self.ids), IDS_A_LINE):
                self._raw.call("session.heartbeat", session_ids=self.ids[start : start + IDS_A_LINE])
            deadline = time.monotonic() + PATIENCE_S
            while redis.zcount("voicesession:@heartbeats", began, "+inf") < len(self.ids):
                if time.monotonic() > deadline:
                    raise TimeoutError("the heartbeats were not written")
                time.sleep(LOOK_EVERY_S)

    def _flush(self) -> None:
        if self._raw.call("server.flush", timeout_s=PATIENCE_S)["unflushed"]:
            raise RuntimeError("not all sessions were flushed")

    def _pages(self, method: str, **params: Any) -> Callable[[], None]:
        def ask() -> None:
            more: dict[str, Any] = {}
            while True:
                page = self._raw.call(method, **params, **more)
                if "next_cursor" not in page:
                    return
                more = {"cursor": page["next_cursor"]}

        return ask

    def _stats(self) -> None:
        self._raw.call("server.stats")

    def _leaving(self, sessions: int) -> Iterator[Longest]:
        """A worker with many sessions hangs up; nobody claims them."""
        worker = Raw(self.server)
        worker.call("worker.register", worker_id="leaving")
        with Raw(self.server) as asking:
            worker.tell(
                line("session.claim", json.dumps({"session_id": one, "worker_id": "leaving", "history": "none"}))
                for one in self.ids[:sessions]
            )
            asking.call("server.flush", timeout_s=PATIENCE_S)

            def leave() -> None:
                worker.close()
                deadline = time.monotonic() + PATIENCE_S
                while asking.call("server.stats")["orphans"] < sessions:
                    if time.monotonic() > deadline:
                        raise TimeoutError("the sessions are no orphans")
                    time.sleep(LOOK_EVERY_S)

            yield self.measure(f"a worker with {sessions:,} sessions leaves", leave)
            labels = {"app": "nobody's"}
            yield self.measure(
                f"`session.claim_next` that matches none of {sessions:,} orphans",
                lambda: asking.call("session.claim_next", worker_id="seeking", labels=labels),
            )

    def _big(self) -> None:
        content = "x" * BIG_TURN_BYTES
        turn = json.dumps({"session_id": "big", "turn": {"role": "agent", "content": content}})
        self._raw.tell([save(b'{"id":"big","status":"active"}')])
        self._raw.tell(line("session.add_turn", turn) for _ in range(self._big_bytes // BIG_TURN_BYTES))
        LONGEST.pack_into(self._found, 0, 0.0, 0.0)
        for _ in range(BIG_TURNS):
            self._raw.tell([add_turn("big")])
            time.sleep(BIG_EVERY_S)


def longest_turns(sessions: int, *, big_bytes: int) -> list[Longest]:
    """Each kind of work over a daemon with so many sessions; see Watched."""
    with Rig() as rig, awake():
        watched = Watched(rig, sessions, big_bytes)
        try:
            return [*watched.each()]
        finally:
            watched.close()


def verdict(rounds: Sequence[Sequence[Longest]], sessions: int) -> Verdict:
    """The longest turn of all beside the goal, by the clock on the wall: what who waits for the loop feels."""
    longest = [max(each, key=lambda turn: turn.wall_s) for each in rounds]
    worst = max(longest, key=lambda turn: turn.wall_s)
    name = f"longest turn of the loop, {sessions:,} sessions"
    return Verdict(name, _wall_ms(longest), LOOP_GOAL_MS, unit=" ms", note=worst.name)


def turns_json(rounds: Sequence[Sequence[Longest]]) -> dict[str, list[dict[str, Any]]]:
    """For the table: median, least and most over the rounds, milliseconds."""
    return {
        "turns": [
            {"name": same[0].name, "wall_ms": spread(_wall_ms(same)), "processor_ms": spread(_processor_ms(same))}
            for same in zip(*rounds, strict=True)
        ]
    }


def _wall_ms(same: Sequence[Longest]) -> Spread:
    return Spread.of([each.wall_s * 1000 for each in same])


def _processor_ms(same: Sequence[Longest]) -> Spread:
    return Spread.of([each.processor_s * 1000 for each in same])
