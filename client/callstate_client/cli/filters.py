"""Options that select calls, and the calls that match them."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from typing import Literal

from callstate_client.api import CallStore
from callstate_client.cli import values
from callstate_client.protocol.params import SESSION_STATES
from callstate_client.store import Record


def add_filters(parser: argparse.ArgumentParser, scope: Literal["host", "all"]) -> None:
    """Add them.

    Args:
        parser: of the command.
        scope: the default of `--scope`.
    """
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
        default=scope,
        help="host: calls in this daemon's memory; all: those in the store, of every host, as well"
        f" (default: {scope})",
    )


def matching(store: CallStore, args: argparse.Namespace, *, users: bool = False) -> AsyncIterator[Record]:
    """The calls that match, without their histories, page by page; `users`: with who created them."""
    return store.sessions(
        status=args.status,
        state=args.state,
        provider=args.provider,
        owner=args.owner,
        call_id=args.call_id,
        labels=dict(args.labels) or None,
        ended_since=args.ended_since,
        scope=args.scope,
        users=users,
    )
