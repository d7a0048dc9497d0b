"""What comes and goes leaves nothing behind in the daemon's memory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support import counted

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


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("store", "kinds"), [("sqlite", [*KINDS]), ("redis", ["requests", "expired"])])
def test_memory_does_not_grow_by_what_is_over(
    store: str, kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.churn import Churning, settings
    from bench.processes import Rig

    grown: dict[str, float] = {}
    with Rig() as rig:
        fifo = rig.root / "blocks"
        os.mkfifo(fifo)
        server = rig.daemon(
            "churn", rig.redis() if store == "redis" else None, *settings(), "--set", "limits.events=10",
            below=(sys.executable, counted.__file__, str(fifo)),
        )  # fmt: skip
        churning = Churning(server)
        for kind in kinds:
            first, number, limit = KINDS[kind]
            churning.steps[kind](first)
            churning.settle()
            before = counted.count(server.pid, fifo)
            churning.steps[kind](number)
            churning.settle()
            each = (counted.count(server.pid, fifo) - before) / number
            if each > limit:
                grown[kind] = each
        churning.leave()
    assert grown == {}
