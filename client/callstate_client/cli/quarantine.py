"""`callstate quarantine`: what the daemon's store refuses, and what is to become of it."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec
from msgspec import UNSET
from rich.table import Table
from rich.text import Text

from callstate_client.api import CallStore
from callstate_client.cli import render
from callstate_client.cli.output import Output, printable
from callstate_client.protocol.results import Quarantined

Action = Callable[[CallStore, argparse.Namespace, Output], Awaitable[int]]


async def quarantine(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Run `ls`, `show`, `retry` or `drop`."""
    return await _ACTIONS[args.action](store, args, out)


async def _ls(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    refused: list[Quarantined] = []
    async for each in store.quarantined():
        refused.append(each)
        if len(refused) == args.limit:
            break
    if out.as_json:
        out.document(refused)
    elif refused:
        out.text(_table(refused))
    else:
        out.text("nothing is in quarantine")
    return 0


def _table(refused: list[Quarantined]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("ID", "KIND"):
        table.add_column(name, no_wrap=True)
    for name in ("SINCE", "ATTEMPTS", "RETRY IN"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("REASON", overflow="fold")
    for each in refused:
        table.add_row(
            Text(printable(each.session_id)),
            each.kind,
            render.duration_text(timedelta(seconds=each.since_s)),
            str(each.attempts or ""),
            "" if each.retry_in_s is UNSET else render.duration_text(timedelta(seconds=each.retry_in_s)),
            Text(printable(each.reason)),
        )
    return table


async def _show(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    result = await store.show_quarantined(args.id)
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(result))
    document = shown.get("session")
    if document is not None and not args.show_numbers:
        document |= {name: render.masked(document.get(name, "")) for name in ("from", "to")}
    if out.as_json:
        out.document(shown)
    else:
        out.text(render.figures_table(shown | ({"stored": "nothing"} if shown.get("stored", ...) is None else {})))
    return 0


async def _retry(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    retried = await store.retry_quarantined(args.ids or None)
    if out.as_json:
        out.document({"retried": retried})
    else:
        out.text({0: "nothing to try again", 1: "1 is tried again"}.get(retried, f"{retried} are tried again"))
    return 0


async def _drop(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    await store.drop_quarantined(args.id)
    if out.as_json:
        out.document({"id": args.id, "dropped": True})
    else:
        out.text(f"{args.id} dropped: what the store has is what counts")
    return 0


_ACTIONS: Final[Mapping[str, Action]] = {"ls": _ls, "show": _show, "retry": _retry, "drop": _drop}
