"""`callstate ls`: the calls that a daemon holds."""

from __future__ import annotations

import argparse
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli import options, output, values
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output
from callstate_client.cli.render.documents import record_document
from callstate_client.cli.render.sessions import sessions_table
from callstate_client.model.state import Status
from callstate_client.model.times import now
from callstate_client.protocol.params import SESSION_STATES

IN_MEMORY_ONLY: Final = (
    "only calls in the daemon's memory are listed; ended ones leave it after reaper.retention_s."
    " --scope all includes those in the store"
)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--status", help="only calls with this status, such as active, on_hold, ended")
    parser.add_argument(
        "--state", choices=SESSION_STATES, help="only calls that have not ended and are in this state"
    )
    parser.add_argument("--provider", help="only calls of this provider")
    parser.add_argument("--owner", help="only calls held by this worker")
    parser.add_argument("--call-id", help="only the call with this id at its provider")
    parser.add_argument(
        "--label",
        metavar="K=V",
        type=values.label,
        action="append",
        default=[],
        dest="labels",
        help="only calls with this label; given more than once, all must match",
    )
    parser.add_argument(
        "--ended-since",
        metavar="T",
        type=values.since,
        help="only calls that ended since then: an RFC 3339 time, or an age such as 90s, 10m, 2h, 1d",
    )
    parser.add_argument(
        "--scope",
        choices=("host", "all"),
        default="host",
        help="host: calls in this daemon's memory (default); all: those in the store, of every host, as well",
    )
    options.add_limit(parser)
    options.add_numbers(parser)


async def _ls(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    records = []
    matching = store.sessions(
        status=args.status,
        state=args.state,
        provider=args.provider,
        owner=args.owner,
        call_id=args.call_id,
        labels=dict(args.labels) or None,
        ended_since=args.ended_since,
        scope=args.scope,
    )
    async for record in matching:
        records.append(record)
        if len(records) == args.limit:
            break
    if out.as_json:
        out.document([record_document(each, history=False, show_numbers=args.show_numbers) for each in records])
    elif records:
        out.text(sessions_table(records, now(), show_numbers=args.show_numbers, width=out.width))
    else:
        out.text("no matching calls" if _filtered(args) else "no calls")
    if _may_be_in_store_only(args) and not out.as_json:
        output.error(IN_MEMORY_ONLY)
    return 0


def _may_be_in_store_only(args: argparse.Namespace) -> bool:
    """Whether matching calls may have ended so long ago that only the store has them."""
    return args.scope == "host" and bool(args.call_id or args.ended_since or args.status == Status.ENDED)


def _filtered(args: argparse.Namespace) -> bool:
    return any((args.status, args.state, args.provider, args.owner, args.call_id, args.labels, args.ended_since))


COMMAND: Final = Command(
    "ls", "list the calls in the daemon's memory; ended ones leave it after reaper.retention_s", _ls, add=_add
)
