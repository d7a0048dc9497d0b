"""`callstate info` and `callstate stats`: what the daemon is, and how it is."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output
from callstate_client.cli.render.figures import figures_table


async def _info(store: CallStore, _args: argparse.Namespace, out: Output) -> int:
    return _figures(await store.info(), out)


async def _stats(store: CallStore, _args: argparse.Namespace, out: Output) -> int:
    return _figures(await store.stats(), out)


def _figures(figures: Mapping[str, object], out: Output) -> int:
    if out.as_json:
        out.document(figures)
    else:
        out.text(figures_table(figures))
    return 0


INFO: Final = Command("info", "show the daemon's version, store and durability", _info)
STATS: Final = Command("stats", "show the daemon's state: sessions, store, journal, counters", _stats)
