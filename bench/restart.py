"""How long a start takes, and what a checkpoint costs: a state directory of many calls, and a daemon upon it.

    .venv/bin/python bench/restart.py --sessions 100000

Builds a journal through the daemon's own Cache and Journal, first as a snapshot alone, then with as much of a log
behind it as makes a checkpoint due, which is the most that ever has to be replayed: a record a turn, as `hold`
leaves it (a million of them), or with `--saves` a record of all turns, as workers leave that save everything every
time (four times the snapshot). Starts a callstated on each and measures from its launch to its first answer; on the
second, which begins a checkpoint at once, also the most memory and disk that took, and how long pings waited
meanwhile. The store behind is one that is away, so that nothing but journal and memory is measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.records import HistoryMode, TurnsRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.table.cache import Cache
from callstate_sidecar.journal import Checkpointer, Files, Journal

GROUP_RECORDS = 64
"""Records that are journaled together: about what a busy turn of the loop gathers."""

TURN = (
    b'{"role":"%b","content":"%d and then I would like to change the booking from Tuesday to Thursday, if there is'
    b' still a table free","timestamp":"2026-01-01T00:00:%02d.123456Z","duration_ms":900}'
)

PATIENCE_S = 300.0


class Builder:
    """Plays calls into a journal: each is saved and then said turn by turn, or saved with all its turns."""

    def __init__(self, directory: Path, turns: int, *, saves: bool) -> None:
        self._directory = directory
        self._turns = turns
        self._saves = saves
        self.cache = Cache()
        self._us = 1_767_225_600_000_000

    def create(self, sessions: int) -> None:
        """All calls once, left as a snapshot."""
        journal = self._open()
        for number in range(sessions):
            head = read_head(
                b'{"id":"call-%08d","provider":"twilio","direction":"inbound","from":"+442079460123",'
                b'"to":"+15550100","status":"active","recovery_data":{"node":"booking"}}' % number,
                "$",
                lambda _: "2026-01-01T00:00:00Z",
            )
            session = Session(head.session_id, Document(head, self._us))
            self.cache.create(session)
            self._play(journal, session, saves=True)  # only the snapshot stays
        Checkpointer(journal, Files(), self.cache.snapshot, lambda: None).run_now()
        journal.close()

    def outgrow(self) -> tuple[int, int]:
        """The same calls anew until a checkpoint is due; gives the snapshot's and the log's bytes."""
        journal = self._open()
        sessions = [*self.cache.sessions.values()]
        for session in cycle(sessions):
            if journal.checkpoint_due:
                break
            self._play(journal, session, saves=self._saves)
        self._commit(journal)
        journal.close()
        return journal.snapshot_bytes, journal.log_bytes

    def _open(self) -> Journal:
        journal = Journal(self._directory, checkpoint_min_bytes=0)
        journal.replay(lambda _: None)
        journal.start()
        return journal

    def _play(self, journal: Journal, session: Session, *, saves: bool) -> None:
        turns = [TURN % (b"agent" if n % 2 else b"user", n, n % 60) for n in range(self._turns)]
        self.cache.change(session)
        self._save(session, turns if saves else [])
        if not saves:
            for turn in turns:
                self._say(session, turn)
        if len(self.cache.group) >= GROUP_RECORDS:
            self._commit(journal)

    def _save(self, session: Session, turns: list[bytes]) -> None:
        self._us += 1000
        history = b",".join(turns)
        session.doc.replace_history(history, len(turns))
        session.next_version(self._us)
        session.journaled = True
        self.cache.log(session, session.record(HistoryMode.REPLACE, history, len(turns), []), 0.0)

    def _say(self, session: Session, turn: bytes) -> None:
        self._us += 1000
        session.doc.append(turn, 1)
        session.doc.updated_us = self._us
        version = session.next_version(self._us)
        record = TurnsRecord(session.id, version, self._us, session.doc.metrics, HistoryMode.APPEND, turn, 1)
        self.cache.log(session, record, 0.0)

    def _commit(self, journal: Journal) -> None:
        journal.append(self.cache.group)
        self.cache.commit()


class Daemon:
    """A callstated on a state directory, and what can be seen of it from outside."""

    def __init__(self, root: Path) -> None:
        self._socket = root / "s"
        self._state = root / "state"
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-m", "callstate_sidecar", "--socket", str(self._socket)]
        command += ["--state-dir", str(self._state), "--store", f"unix://{root}/no-redis-here"]
        launched = time.monotonic()
        with (root / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own
        self._connect(launched + PATIENCE_S)
        self.ask("server.ping")
        self.ready_s = time.monotonic() - launched

    def _connect(self, deadline: float) -> None:
        while True:
            try:
                self._connection.connect(str(self._socket))
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)  # there is nothing to wait for but the socket's coming
            else:
                self._replies = self._connection.makefile("rb")
                return

    def ask(self, method: str) -> Any:
        """The result of a verb without parameters."""
        self._connection.sendall(b'{"jsonrpc":"2.0","id":1,"method":"%b"}\n' % method.encode())
        return json.loads(self._replies.readline())["result"]

    def memory_bytes(self, field: str) -> int:
        """`VmRSS`, what it takes now, or `VmHWM`, the most it ever took."""
        status = Path(f"/proc/{self._process.pid}/status").read_text("ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))

    def watch_checkpoint(self) -> dict[str, float]:
        """Ping until the checkpoint that is due has been written."""
        before = self.ask("server.stats")["journal_bytes"]
        began, most_disk, slowest_s = time.monotonic(), 0, 0.0
        while True:
            asked = time.monotonic()
            self.ask("server.ping")
            slowest_s = max(slowest_s, time.monotonic() - asked)
            stats = self.ask("server.stats")
            most_disk = max(most_disk, stats["journal_disk_bytes"])
            if stats["journal_bytes"] < before / 2:
                break
            if time.monotonic() > began + PATIENCE_S:
                raise TimeoutError("no checkpoint was written")
        return {
            "done_s": time.monotonic() - began,
            "disk_peak": most_disk,
            "disk_after": self.ask("server.stats")["journal_disk_bytes"],
            "slowest_ping_s": slowest_s,
        }

    def kill(self) -> None:
        """End it as a crash would: a clean stop would leave a snapshot."""
        self._replies.close()
        self._connection.close()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def row(name: str, text: str) -> None:
    """One line of the report."""
    sys.stdout.write(f"  {name:<26}{text}\n")
    sys.stdout.flush()


def megabytes(size: float) -> str:
    """A size for people."""
    return f"{size / 1e6:,.0f} MB"


def measure(root: Path, sessions: int, turns: int, *, saves: bool) -> None:
    """Build, start, watch, tell."""
    builder = Builder(root / "state" / "journal", turns, saves=saves)
    builder.create(sessions)
    documents = sum(len(session.doc.to_json(0)) for session in builder.cache.sessions.values())
    row("sessions", f"{sessions:,} of {turns} turns, {megabytes(documents)} of JSON")
    daemon = Daemon(root)
    resident = daemon.memory_bytes("VmRSS")
    row("ready from a snapshot", f"{daemon.ready_s:.1f} s after launch")
    row("memory then", f"{megabytes(resident)}, {resident / documents:.2f} of the JSON")
    daemon.kill()
    snapshot, log = builder.outgrow()
    del builder
    row("the log", f"{megabytes(log)}, {log / snapshot:.1f} times the snapshot of {megabytes(snapshot)}")
    daemon = Daemon(root)
    row("ready from that log", f"{daemon.ready_s:.1f} s after launch")
    resident = daemon.memory_bytes("VmHWM")
    seen = daemon.watch_checkpoint()
    slowest_ms = seen["slowest_ping_s"] * 1000
    row("checkpoint", f"done {seen['done_s']:.1f} s later, the slowest ping took {slowest_ms:.0f} ms")
    row("memory at most", f"{megabytes(resident)} at the start, {megabytes(daemon.memory_bytes('VmHWM'))} with it")
    row("disk", f"{megabytes(seen['disk_peak'])} at most, {megabytes(seen['disk_after'])} after it")
    daemon.kill()


def main() -> None:
    """Read the arguments, measure in a temporary directory, remove it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--saves", action="store_true", help="a record of all turns, instead of one a turn")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="cs-"))
    try:
        measure(root, args.sessions, args.turns, saves=args.saves)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
