"""The cost of a tick: the daemon's own reaper and journal over many sessions, in this process."""

from __future__ import annotations

import gc
import logging
import time
from pathlib import Path
from typing import Final

from callstate_client.engine.engine import Engine
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from callstate_sidecar.config.schema import Config
from callstate_sidecar.garbage import collecting
from callstate_sidecar.journal import Journal
from callstate_sidecar.logs.lines import TextFormatter
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.reaper import Reaper
from callstate_sidecar.serving.server import Server
from callstate_sidecar.system.clock import SystemClock

FAR_S: Final = 1e6
"""Seconds: evidence of life from this far in the future never expires here."""


class Reapable:
    """Live sessions, of which some are due together.

    Args:
        directory: for the journal.
        live: number of sessions.
        due: number of those that fall silent at once.
    """

    def __init__(self, directory: Path, live: int, due: int) -> None:
        config = Config()
        self._reaper_config = config.reaper
        self._clock = SystemClock()
        metrics = Metrics()
        engine = Engine(config.limits, config.reaper, self._clock, "stream")
        liveness = engine.liveness
        self.journal = Journal(directory, checkpoint_min_bytes=config.journal.checkpoint_min_bytes)
        self.journal.replay(lambda _: None)
        self.journal.start()
        server = Server(engine, self.journal, metrics, config.limits)
        self._reaper = Reaper(engine, self._clock, metrics, config.reaper.tick_s, server.group.commit)
        self._began = self._clock.live()
        for number in range(live):
            session = _session(number)
            engine.tx.create(session)
            session.next_version(self._clock.wall_us())
            session.journaled = True
            liveness.watch(session, self._began + (FAR_S if number >= due else 0.0))
        engine.tx.commit()  # otherwise the first tick that changes something would pay for discarding this undo log

    def idle_tick_s(self, ticks: int) -> float:
        """The longest of some ticks with nothing due."""
        return max(self._tick(self._began)[0] for _ in range(ticks))

    def busy_tick_s(self) -> float:
        """The longest tick while all due sessions become suspect, and then end."""
        config, longest = self._reaper_config, 0.0
        for now in (config.heartbeat_timeout_s, config.heartbeat_timeout_s + config.grace_s + 1.0):
            acts = 1
            while acts:
                took, acts = self._tick(self._began + now)
                longest = max(longest, took)
        return longest

    def _tick(self, now: float) -> tuple[float, int]:
        began = time.perf_counter()
        acts = self._reaper.tick(now)
        return time.perf_counter() - began, acts


def _session(number: int) -> Session:
    head = read_head(
        b'{"id":"call-%08d","provider":"twilio","direction":"inbound","from":"+442079460123","to":"+15550100",'
        b'"status":"active"}' % number,
        "$",
        lambda _: "2026-01-01T00:00:00Z",
    )
    return Session(head.session_id, Document(head, 1_767_225_600_000_000))


async def ticks(directory: Path, *, live: int, due: int) -> tuple[float, float]:
    """The longest tick with none due, and with many due at once; seconds.

    A coroutine because the parts of the daemon need a running loop; the ticks themselves don't use it.
    """
    directory.mkdir()  # noqa: ASYNC240 - nothing else runs in this loop
    log = logging.FileHandler(directory / "log")  # each reaped session is a log line, as in the daemon
    log.setFormatter(TextFormatter(journal=False))
    logger = logging.getLogger("callstate_sidecar")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    reapable = Reapable(directory, live, due)
    gc.collect()
    try:
        with collecting():
            return reapable.idle_tick_s(100), reapable.busy_tick_s()
    finally:
        reapable.journal.close()
        logger.removeHandler(log)
        log.close()
