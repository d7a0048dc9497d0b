"""`callstate ping`: whether the daemon answers, and how fast."""

from __future__ import annotations

import argparse
import time
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output


async def _ping(store: CallStore, _args: argparse.Namespace, out: Output) -> int:
    started = time.perf_counter()
    await store.ping()
    latency_ms = round((time.perf_counter() - started) * 1000, 3)
    if out.as_json:
        out.document({"ok": True, "latency_ms": latency_ms})
    else:
        out.text(f"the daemon answered in {latency_ms:g} ms")
    return 0


COMMAND: Final = Command("ping", "check that the daemon answers", _ping)
