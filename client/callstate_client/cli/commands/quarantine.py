"""`callstate quarantine`: what the daemon's store refuses, and what is to become of it."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any, Final

import msgspec
from msgspec import UNSET
from rich.table import Table
from rich.text import Text

from callstate_client.api import CallStore
from callstate_client.cli import options, values
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output, printable
from callstate_client.cli.render.figures import figures_table
from callstate_client.cli.render.text import duration_text, masked
from callstate_client.protocol.results import Quarantined


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
        out.text("the quarantine is empty")
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
            duration_text(timedelta(seconds=each.since_s)),
            str(each.attempts or ""),
            "" if each.retry_in_s is UNSET else duration_text(timedelta(seconds=each.retry_in_s)),
            Text(printable(each.reason)),
        )
    return table


async def _show(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    result = await store.show_quarantined(args.id)
    shown: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(result))
    document = shown.get("session")
    if document is not None and not args.show_numbers:
        document |= {name: masked(document.get(name, "")) for name in ("from", "to")}
    if out.as_json:
        out.document(shown)
    else:
        out.text(figures_table(shown | ({"stored": "nothing"} if shown.get("stored", ...) is None else {})))
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
        out.text(f"{args.id} dropped; from now on, what the store has counts")
    return 0


def _add_show(parser: argparse.ArgumentParser) -> None:
    options.add_id(parser)
    options.add_numbers(parser)


def _add_retry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", type=values.session_id, nargs="*", help="only these (default: all)")


COMMAND: Final = Command(
    "quarantine",
    "show sessions that the store refuses or that other hosts took over; retry or drop them",
    actions=(
        Command(
            "ls",
            "list the sessions that the store refuses, and those that another host took over",
            _ls,
            add=options.add_limit,
        ),
        Command("show", "show one of them, and what the store has in its place", _show, add=_add_show),
        Command("retry", "write them now instead of waiting for the next retry", _retry, add=_add_retry),
        Command(
            "drop",
            "discard the daemon's copy of one for good; from then on, what the store has counts",
            _drop,
            add=options.add_id,
        ),
    ),
)
