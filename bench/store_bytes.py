"""What a turn costs the store, by the length of the history: written for what it adds, and with the whole document.

The daemon flushes when it is asked to. Each session gets a turn, and the flush of all of them is measured. A turn
that is amended before the flush makes the daemon write the whole document: so every turn was written before there
were patches, and it is measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final

from redis import Redis

from bench.compare import pool
from bench.documents import CONTENT, DURATION_MS, ROLE, documents
from bench.loads import FLUSH_WHEN_ASKED
from bench.processes import Rig, Server
from bench.sampling import Spread
from bench.targets import Verdict
from bench.wire import Wire, fill, line

KINDS: Final = ("added", "whole")

Costs = dict[str, list[float]]
"""By figure: one value a round, per turn."""

Measured = dict[int, dict[str, Costs]]
"""By history length in turns and kind of write."""

_ops = count()


def _turn(session_id: str) -> bytes:
    turn = (
        f'{{"role":"{ROLE}","content":"{CONTENT}","timestamp":"2026-01-01T00:00:00Z","duration_ms":{DURATION_MS}}}'
    )
    op = f"bench-{next(_ops):016d}"  # as the client sends it; the store keeps its result
    return line("session.add_turn", f'{{"session_id":"{session_id}","turn":{turn},"op":"{op}"}}')


def _amendment(session_id: str) -> bytes:
    return line("session.amend_turn", f'{{"session_id":"{session_id}","set":{{"interrupted":true}}}}')


def _flush(
    daemon: Server, session_ids: Sequence[str], kind: str, counters: Callable[[], Mapping[str, float]] = dict
) -> Mapping[str, float]:
    """Add a turn to each session, to be written whole if `kind` says so, and flush them.

    Returns:
        the counters before the flush.
    """
    with Wire(daemon) as wire:
        wire.send_all(map(_turn, session_ids))
        if kind == "whole":
            wire.send_all(map(_amendment, session_ids))
        before = counters()
        wire.flush()
    return before


def _calls(client: Redis, *commands: str) -> int:
    """How often Redis has executed these commands, or all commands if none is given."""
    stats: dict[str, Any] = client.info("commandstats")
    names = [f"cmdstat_{command}" for command in commands] or [name for name in stats if name != "cmdstat_info"]
    return sum(stats.get(name, {"calls": 0})["calls"] for name in names)


def _redis_counters(redis: Server, client: Redis, daemon: Server) -> dict[str, float]:
    """What Redis and the daemon have used so far."""
    return {
        "wire_bytes": client.info("stats")["total_net_input_bytes"],
        "aof_bytes": client.info("persistence")["aof_current_size"],
        "commands": _calls(client),
        "expires": _calls(client, "pexpire"),
        "store_cpu_us": redis.cpu_s() * 1e6,
        "daemon_cpu_us": daemon.cpu_s() * 1e6,
    }


def _sqlite_counters(daemon: Server) -> dict[str, float]:
    """What the daemon has used and written so far; a journal that stands still writes nothing."""
    return {"written_bytes": daemon.written_bytes(), "daemon_cpu_us": daemon.cpu_s() * 1e6}


def measure(
    daemon: Server,
    counters: Callable[[], Mapping[str, float]],
    lengths: Sequence[int],
    *,
    sessions: int,
    rounds: int,
) -> Measured:
    """Flush a turn of each session, in turn as a patch and whole, at each length of the history.

    Args:
        daemon: must run with `FLUSH_WHEN_ASKED`.
        counters: read before and after each flush.
        lengths: of histories, in turns.
        sessions: how many are flushed at once.
        rounds: flushes of each kind that count. Each follows one of its own kind that does not: Redis makes room in
            a string when it is first extended, and not with each turn.
    """
    measured: Measured = {turns: {kind: {} for kind in KINDS} for turns in lengths}
    for turns, kinds in measured.items():
        session_ids = pool(turns, sessions)
        fill(daemon, documents(session_ids, turns))
        for kind, costs in [*kinds.items()] * rounds:
            _flush(daemon, session_ids, kind)
            before = _flush(daemon, session_ids, kind, counters)
            after = counters()
            for name in after:
                costs.setdefault(name, []).append((after[name] - before[name]) / sessions)
    return measured


def in_redis(rig: Rig, lengths: Sequence[int], *, sessions: int, rounds: int) -> Measured:
    """What a turn costs with Redis behind."""
    redis = rig.redis()
    daemon = rig.daemon("bytes", redis, *FLUSH_WHEN_ASKED)
    with Redis(unix_socket_path=str(redis.path)) as client:
        return measure(
            daemon, lambda: _redis_counters(redis, client, daemon), lengths, sessions=sessions, rounds=rounds
        )


def in_sqlite(rig: Rig, lengths: Sequence[int], *, sessions: int, rounds: int) -> Measured:
    """What a turn costs with SQLite behind."""
    daemon = rig.daemon("bytes-sqlite", None, *FLUSH_WHEN_ASKED)
    return measure(daemon, lambda: _sqlite_counters(daemon), lengths, sessions=sessions, rounds=rounds)


def bytes_json(stores: Mapping[str, Measured]) -> dict[str, Any]:
    """By store, length and kind: each figure as [median, minimum, maximum] over the rounds."""
    return {
        store: {
            number: {
                kind: {name: Spread.of(values).to_json() for name, values in costs.items()}
                for kind, costs in kinds.items()
            }
            for number, kinds in measured.items()
        }
        for store, measured in stores.items()
    }


def _quotient(values: Sequence[float], others: Sequence[float]) -> Spread:
    return Spread.of([value / other for value, other in zip(values, others, strict=True)])


def bytes_verdicts(redis: Measured, sqlite: Measured) -> Iterator[Verdict]:
    """The verdicts on what a turn costs the store, at the second length, and the last beside the first."""
    first, usual, *_, last = redis
    added, whole = redis[usual]["added"], redis[usual]["whole"]
    for name, figure in (("sent to Redis", "wire_bytes"), ("in Redis' append-only file", "aof_bytes")):
        note = f"{Spread.of(whole[figure]).median / 1000:.3g} kB with the whole document"
        sent = Spread.of([value / 1000 for value in added[figure]])
        yield Verdict(f"kB {name} a turn, at {usual}", sent, 1.5, unit=" kB", note=note)
    grown = _quotient(redis[last]["added"]["wire_bytes"], redis[first]["added"]["wire_bytes"])
    yield Verdict(f"bytes sent to Redis a turn, at {last:,} vs at {first}", grown, 1.1)
    micros = [f"{Spread.of(costs['store_cpu_us']).median:.0f}" for costs in (added, whole)]
    note = f"{micros[0]} and {micros[1]} µs"
    cpu = _quotient(added["store_cpu_us"], whole["store_cpu_us"])
    yield Verdict(f"Redis CPU a turn at {usual} vs whole documents", cpu, 0.5, note=note)
    grown = _quotient(sqlite[last]["added"]["written_bytes"], sqlite[first]["added"]["written_bytes"])
    note = f"{Spread.of(sqlite[last]['added']['written_bytes']).median / 1000:.3g} kB"
    yield Verdict(f"bytes SQLite writes a turn, at {last:,} vs at {first}", grown, 1.5, note=note)
