"""What a daemon may have to do beside the heartbeats that are measured: each from outside, through its socket."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Final, Generic, Protocol, TypeVar

from bench.documents import document, history
from bench.processes import Server
from bench.raw import PATIENCE_S, Raw, add_turn, beat, line, save

T = TypeVar("T")

LOOK_EVERY_S: Final = 0.01
STATS_EVERY_S: Final = 0.1

TIMEOUT_S: Final = 1.0
GRACE_S: Final = 0.5
"""Of the sessions that expire: silence until they are suspected, and until they are ended."""

BALLAST: Final = "ballast"
BALLAST_TURNS: Final = 200
"""Of a session that is saved again and again until the log has outgrown its bound."""

LOG_ROOM: Final = 1.25
"""A checkpoint is due when the log has so many times the bytes of the sessions' JSON: more than filling leaves."""

UNREAD_S: Final = 1.0


class Burden(Protocol):
    """Something to do."""

    def prepare(self) -> None:
        """Make it ready; unmeasured."""
        ...

    def bear(self) -> None:
        """Do it, and return when it is done. In a thread of its own."""
        ...


class Nothing:
    """The idle daemon, for so long."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def prepare(self) -> None:
        """Nothing."""

    def bear(self) -> None:
        """Wait."""
        time.sleep(self._seconds)


class Flush:
    """These sessions, changed since they were written last, are written all at once.

    The daemon must have been told to flush only when asked (`FLUSH_WHEN_ASKED`).
    """

    def __init__(self, server: Server, session_ids: Sequence[str]) -> None:
        self._server = server
        self._ids = session_ids

    def prepare(self) -> None:
        """A turn each."""
        with Raw(self._server) as raw:
            raw.tell(map(add_turn, self._ids))

    def bear(self) -> None:
        """The barrier."""
        with Raw(self._server) as raw:
            flushed = raw.call("server.flush", timeout_s=PATIENCE_S)
        if flushed["unflushed"]:
            raise RuntimeError(f"{flushed['unflushed']} sessions were not flushed")


FLUSH_WHEN_ASKED: Final = ("--set", "store.flush_interval_s=60")


class Checkpoint:
    """A snapshot of everything is written, for the log has outgrown its bound.

    The daemon must have been started with `checkpoint_at` for the documents that it was filled with.
    """

    def __init__(self, server: Server, directory: Path, documents: Mapping[str, bytes]) -> None:
        self._server = server
        self._directory = directory
        self._bound = LOG_ROOM * _size(documents)
        self._saves = [
            save(document(BALLAST, BALLAST_TURNS, history(BALLAST_TURNS, word))) for word in ("one", "other")
        ]  # two in turn: what is saved again as it is costs the log nothing

    def prepare(self) -> None:
        """Bring the log near its bound."""
        if self._snapshots():
            raise RuntimeError("a checkpoint came before its time")
        with Raw(self._server) as raw:
            left = self._bound - raw.call("server.stats")["journal_bytes"]
            for _ in range(int(left / len(self._saves[0])) - 1):
                self._save(raw)

    def bear(self) -> None:
        """Push it over, and wait for the snapshot to count."""
        deadline = time.monotonic() + PATIENCE_S
        with Raw(self._server) as raw:
            for _ in range(3):
                self._save(raw)
        while not (done := self._snapshots()) or not all(path.suffix == ".csj" for path in done):
            if time.monotonic() > deadline:
                raise TimeoutError("no checkpoint was written")
            time.sleep(LOOK_EVERY_S)  # a file's coming is told to nobody

    def _save(self, raw: Raw) -> None:
        self._saves.reverse()
        raw.tell(self._saves[:1])

    def _snapshots(self) -> list[Path]:
        return [*self._directory.glob("snapshot-*")]


def checkpoint_at(documents: Mapping[str, bytes]) -> tuple[str, ...]:
    """Options of a daemon that is filled with these, and then borne down upon by `Checkpoint`."""
    bound = int(LOG_ROOM * _size(documents))
    return ("--set", f"journal.checkpoint_min_bytes={bound}", "--set", "journal.sync_interval_s=0.05")


def _size(documents: Mapping[str, bytes]) -> int:
    return sum(map(len, documents.values())) + (4 << 20)


class Expiry:
    """These sessions fall silent at the same moment, are suspected together, and ended together."""

    def __init__(self, server: Server, documents: Mapping[str, bytes]) -> None:
        self._server = server
        self._documents = documents

    def prepare(self) -> None:
        """One line beats for all of them; then they are silent until just before their time."""
        with Raw(self._server) as raw:
            timeout = f',"heartbeat_timeout_s":{TIMEOUT_S + 60}'  # more, while they come
            raw.tell(save(each, timeout) for each in self._documents.values())
            timeout = f',"heartbeat_timeout_s":{TIMEOUT_S}'
            raw.tell(save(each, timeout) for each in self._documents.values())
            self._ended = raw.call("server.stats")["sessions"].get("ended", 0) + len(self._documents)
            raw.call("session.heartbeat", session_ids=[*self._documents])
        time.sleep(TIMEOUT_S - 0.1)

    def bear(self) -> None:
        """Wait until all have ended."""
        deadline = time.monotonic() + PATIENCE_S
        with Raw(self._server) as raw:
            while raw.call("server.stats")["sessions"].get("ended", 0) < self._ended:
                if time.monotonic() > deadline:
                    raise TimeoutError("the sessions were not reaped")
                time.sleep(STATS_EVERY_S)


EXPIRING: Final = ("--set", f"reaper.grace_s={GRACE_S}")


class Pipeline:
    """One client sends so many requests, half of them heartbeats, half turns, without waiting for a reply."""

    def __init__(self, server: Server, session_ids: Sequence[str], requests: int) -> None:
        self._server = server
        self._ids = session_ids
        self._requests = requests

    def prepare(self) -> None:
        """Write the lines."""
        pairs = b"".join(beat(one) + add_turn(one) for one in self._ids)
        times, rest = divmod(self._requests, 2 * len(self._ids))
        if rest:
            raise ValueError("as many requests of each session")
        self._data = pairs * times

    def bear(self) -> None:
        """All at once; the replies are read as they come."""
        with Raw(self._server) as raw:
            sender = Thread(target=raw.socket.sendall, args=(self._data,))
            sender.start()
            left = self._requests
            while left:
                left -= raw.socket.recv(1 << 18).count(b"\n")
            sender.join()


class Unread:
    """A client loads sessions as long as the daemon takes its requests, and never reads a reply."""

    def __init__(self, server: Server, session_ids: Sequence[str]) -> None:
        self._server = server
        self._requests = b"".join(line("session.load", f'{{"session_id":"{one}"}}') for one in session_ids)

    def prepare(self) -> None:
        """Nothing."""

    def bear(self) -> None:
        """Send until the daemon has taken nothing for a second."""
        with Raw(self._server) as raw:
            raw.socket.settimeout(UNREAD_S)
            try:
                while True:
                    raw.socket.sendall(self._requests)
            except TimeoutError:
                return


class Together:
    """Several at the same time."""

    def __init__(self, burdens: Sequence[Burden]) -> None:
        self._burdens = burdens

    def prepare(self) -> None:
        """All of them, in turn: what can't wait comes last."""
        for burden in self._burdens:
            burden.prepare()

    def bear(self) -> None:
        """All of them."""
        running = [Beside(burden.bear) for burden in self._burdens]
        for each in running:
            each.finish()


class Beside(Generic[T]):
    """Work in a thread, whose result and whose failure are not lost."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again by who waits for it
            self._error = error

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    def finish(self) -> T:
        """Wait for it; gives what it gave, or raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]
