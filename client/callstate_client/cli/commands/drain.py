"""`callstate drain`: refuse new calls, and optionally wait until the current ones are over."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console

from callstate_client.api import CallStore
from callstate_client.cli import output, values
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output
from callstate_client.model.state import Status

POLL_INTERVAL_S: Final = 0.25
"""How often the calls are counted, seconds: often enough for a person, and of no cost to the daemon."""


async def _drain(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Start or (`--off`) stop draining; exit code 1 if calls are left when the time of `--wait` is up."""
    result = await store.drain(not args.off)
    left = result.sessions
    if args.wait is not None:
        with _progress(visible=not out.as_json) as show:
            left = await _wait(store, left, args.wait, show)
    if out.as_json:
        out.document({"drain": result.drain, "sessions": left})
    else:
        out.text(_summary(left) if result.drain else "new calls are accepted")
    if args.wait is None or not left:
        return 0
    output.error(f"{_calls(left)} left after {args.wait:g} s")
    return 1


async def _wait(store: CallStore, left: int, wait_s: float, show: Callable[[int], None]) -> int:
    """Poll until no call is left or the time is up. Returns how many are left."""
    until = time.monotonic() + wait_s
    while left and (rest_s := until - time.monotonic()) > 0:
        show(left)
        await asyncio.sleep(min(POLL_INTERVAL_S, rest_s))
        sessions = (await store.stats())[
            "sessions"
        ]  # not `drain` again: an operator may have turned it off meanwhile
        left = sum(count for status, count in sessions.items() if status != Status.ENDED)
    return left


def _summary(left: int) -> str:
    return f"new calls are refused; {_calls(left)} left"


def _calls(count: int) -> str:
    return {0: "none", 1: "1 call"}.get(count, f"{count} calls")


@contextmanager
def _progress(*, visible: bool) -> Iterator[Callable[[int], None]]:
    """Shows the falling count on stderr, if that is a terminal."""
    if not (visible and sys.stderr.isatty()):
        yield lambda _left: None
        return
    with Console(stderr=True).status("") as status:
        yield lambda left: status.update(f"{_calls(left)} left")


def _add(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--off", action="store_true", help="accept new calls again")
    what.add_argument(
        "--wait",
        metavar="S",
        type=values.positive,
        help="wait up to this many seconds until the last call is over; exit status 1 if any are left",
    )


COMMAND: Final = Command(
    "drain",
    "refuse new calls, so that the daemon can be stopped once the last call is over",
    _drain,
    add=_add,
    exits={1: "calls are left after --wait, or it failed"},
)
