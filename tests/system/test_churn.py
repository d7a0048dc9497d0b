"""What comes and goes leaves nothing behind in the daemon's memory."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import counted
from support.daemon import Daemon
from support.redis_server import RedisServer, binaries

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.system

KINDS = {
    "requests": (40_000, 24_000, 0.05),
    "connections": (500, 2_000, 0.25),
    "expired": (500, 3_000, 0.5),
    "workers": (500, 3_000, 0.5),
}
"""How many come and go until whatever has a bound is full, then how many that count, and growth for each that is
still noise, in blocks of memory: an object that is kept is one at least.

An eighth of the requests is of each verb, and one verb brings a time; of those the daemon remembers 4,096. Every
other connection is cut off within a line. Numbers of sessions that are gone are swept out when there are 1,100 of
them, so by that much the figure goes up and down while sessions come and go.
"""


class CountedDaemon(Daemon):
    """A daemon that says how much it has in memory; see counted.py."""

    @property
    def fifo(self) -> Path:
        return self.root / "blocks"

    def command(self) -> list[str]:
        return [sys.executable, counted.__file__, str(self.fifo), *super().command()]

    def launch(self) -> None:
        os.mkfifo(self.fifo)
        super().launch()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("store", "kinds"), [("sqlite", [*KINDS]), ("redis", ["requests", "expired"])])
def test_memory_does_not_grow_by_what_is_over(
    store: str, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from support.churn import SETTINGS, Churning

    grown: dict[str, float] = {}
    with ExitStack() as stack:
        url = stack.enter_context(RedisServer(binaries()["valkey"])).url if store == "redis" else None
        daemon = stack.enter_context(CountedDaemon(*SETTINGS, store=url))
        assert daemon.process is not None
        churning = Churning(daemon)
        for kind in kinds:
            first, number, limit = KINDS[kind]
            churning.steps[kind](first)
            churning.settle()
            before = counted.count(daemon.process.pid, daemon.fifo)
            churning.steps[kind](number)
            churning.settle()
            each = (counted.count(daemon.process.pid, daemon.fifo) - before) / number
            if each > limit:
                grown[kind] = each
        churning.leave()
    assert grown == {}
