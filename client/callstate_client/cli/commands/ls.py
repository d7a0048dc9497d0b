"""`callstate ls`: the calls that a daemon holds."""

from __future__ import annotations

import argparse
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli import options, output, values
from callstate_client.cli.command import Command
from callstate_client.cli.filters import add_filters, matching
from callstate_client.cli.output import Output
from callstate_client.cli.render.columns import COLUMNS
from callstate_client.cli.render.documents import record_document
from callstate_client.cli.render.sessions import SessionTable
from callstate_client.cli.watched_calls import WatchedCalls
from callstate_client.cli.watching import watch
from callstate_client.model.state import Status
from callstate_client.model.times import now
from callstate_client.protocol import LIST_USERS
from callstate_client.store import Record

WATCH_S: Final = 2.0
"""How often `--watch` redraws where nothing happens, seconds: ages and turns."""

IN_MEMORY_ONLY: Final = (
    "only calls in the daemon's memory are listed; ended ones leave it after reaper.retention_s."
    " --scope all includes those in the store"
)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--all", action="store_true", help="also list calls that have ended, as long as they are in memory"
    )
    add_filters(parser, scope="host")
    options.add_limit(parser)
    options.add_numbers(parser)
    parser.add_argument(
        "--columns",
        metavar="A,B,…",
        type=values.names_of(COLUMNS),
        help=f"show these, in this order: {', '.join(COLUMNS)}",
    )
    parser.add_argument(
        "--sort",
        metavar="KEY",
        type=values.sort_key_of(COLUMNS),
        help="sort by this column; -KEY: in reverse (default: in the order in which they entered memory)",
    )
    parser.add_argument(
        "--watch",
        metavar="S",
        type=values.positive,
        nargs="?",
        const=WATCH_S,
        help="keep the list current, at each event and every S seconds (default 2), until Ctrl-C. On a terminal "
        "the list is redrawn; elsewhere each call that has changed is printed again",
    )


async def _ls(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    if args.watch is not None:
        return await _watch(store, args, out)
    records, ended = await find(store, args)
    if out.as_json:
        out.document([record_document(each, history=False, show_numbers=args.show_numbers) for each in records])
    elif records:
        out.text(SessionTable(args.columns, show_numbers=args.show_numbers).table(records, now(), out.width))
    else:
        out.text(_nothing(args, ended))
    if _may_be_in_store_only(args) and not out.as_json:
        output.error(IN_MEMORY_ONLY)
    return 0


async def _watch(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    watched = WatchedCalls(store, out, SessionTable(args.columns, show_numbers=args.show_numbers))

    async def show() -> None:
        records, ended = await find(store, args)
        if out.redraws:
            out.redraw(watched.table.table(records, now(), out.width) if records else _nothing(args, ended))
        else:
            await watched.print_changes(records, show_numbers=args.show_numbers)

    return await watch(store, args.watch, show)


async def find(store: CallStore, args: argparse.Namespace) -> tuple[list[Record], int]:
    """The calls that match, sorted; and how many were left out because they have ended."""
    shows_ended = args.all or args.status or args.ended_since or args.call_id
    records: list[Record] = []
    ended = 0
    users = LIST_USERS in await store.features()  # an older daemon does not say
    async for record in matching(store, args, users=users):
        if not shows_ended and record.state.status == Status.ENDED:
            ended += 1
            continue
        records.append(record)
        if len(records) == args.limit and args.sort is None:
            break
    if args.sort is not None:
        name, backwards = args.sort
        records.sort(key=COLUMNS[name].key, reverse=backwards)
    return records[: args.limit], ended


def _nothing(args: argparse.Namespace, ended: int) -> str:
    if ended:
        return (
            f"no live calls; --all lists the {ended} that have ended"
            if ended > 1
            else ("no live calls; --all lists the one that has ended")
        )
    filters = (args.status, args.state, args.provider, args.owner, args.call_id, args.labels, args.ended_since)
    return "no matching calls" if any(filters) else "no calls"


def _may_be_in_store_only(args: argparse.Namespace) -> bool:
    """Whether matching calls may have ended so long ago that only the store has them."""
    return args.scope == "host" and bool(args.call_id or args.ended_since or args.status == Status.ENDED)


COMMAND: Final = Command(
    "ls",
    "list the live calls; --all: also those that have ended",
    _ls,
    add=_add,
    description="List the live calls in the daemon's memory; with --all also those that have ended, which leave it "
    "after reaper.retention_s. --status, --ended-since and --call-id show what matches, ended or not. "
    "STATE is suspect (it may be dead), orphan (its worker has left) or restored (not heard of since the daemon "
    "started); SEEN is the time since the last sign of life.",
)
