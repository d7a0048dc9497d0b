"""From launch to the first answer, with so many sessions of 20 turns to restore."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.processes import Rig
from bench.restart import Builder, Daemon
from bench.sampling import Spread
from bench.targets import Verdict

TURNS: Final = 20

OF_SESSIONS: Final = 100_000
"""What the targets are about; of fewer sessions as much less is expected."""

FROM_CHECKPOINT_S: Final = 5.0
FROM_LOG_S: Final = 20.0


def starts(from_checkpoint: int, from_log: int, turn_by_turn: int = 0) -> Iterator[Verdict]:
    """Both targets.

    Args:
        from_checkpoint: sessions in a snapshot, with nothing behind it.
        from_log: sessions that were saved whole again and again, until the log has four times the snapshot, which
            is when the next one is due.
        turn_by_turn: sessions that were said turn by turn, until the next snapshot was due, which is after a
            million records; 0 leaves them out.
    """
    with Rig() as rig:
        took = _start(rig.root / "1", from_checkpoint)
        yield _verdict("checkpoint", from_checkpoint, FROM_CHECKPOINT_S, took)
        took = _start(rig.root / "2", from_log, log=True)
        yield _verdict("log at 4x", from_log, FROM_LOG_S, took)
        if turn_by_turn:
            took = _start(rig.root / "3", turn_by_turn, log=True, saves=False)
            yield _verdict("log of turns", turn_by_turn, FROM_LOG_S, took)


def _start(root: Path, sessions: int, *, log: bool = False, saves: bool = True) -> float:
    builder = Builder(root / "state" / "journal", TURNS, saves=saves)
    builder.create(sessions)
    if log:
        builder.outgrow()
    del builder  # half a gigabyte, which the daemon shall have
    daemon = Daemon(root)
    daemon.kill()
    shutil.rmtree(root)  # two more
    return daemon.ready_s


def _verdict(what: str, sessions: int, limit_s: float, took_s: float) -> Verdict:
    limit_s *= sessions / OF_SESSIONS
    return Verdict(f"start with {sessions:,} sessions from a {what}", Spread.of([took_s]), limit_s, unit=" s")
