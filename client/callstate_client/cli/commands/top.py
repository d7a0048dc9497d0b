"""`callstate top`: a live view of the calls, in a terminal."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli import options, output, values
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output

USAGE_STATUS: Final = 2

DEFAULT_INTERVAL_S: Final = 1.0


async def _top(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Show the view until it is left."""
    if out.as_json or not _is_terminal():
        output.error("top needs a terminal; `callstate ls`, `stats` and `tail` print to anything, also as JSON")
        return USAGE_STATUS
    try:
        # here, for it takes longer to import than `callstate ls` to run
        from callstate_client.cli.top.app import TopApp  # noqa: PLC0415
    except ImportError as error:
        output.error(f"top needs {error.name}: pip install 'callstate[cli]'")
        return USAGE_STATUS
    app = TopApp(store, interval_s=args.interval, show_numbers=args.show_numbers)
    loop = asyncio.get_running_loop()
    status = 0

    def leave(number: int) -> None:
        nonlocal status
        status = 128 + number
        app.exit()

    # the terminal is given back as it was, also when somebody else ends the program
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, leave, number)
    try:
        await app.run_async()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
    return status or app.return_code or 0


def _is_terminal() -> bool:
    """Whether keys come from a terminal and the view goes to one: Textual draws on stderr."""
    return all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.stdout, sys.__stderr__))


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interval",
        metavar="S",
        type=values.positive,
        default=DEFAULT_INTERVAL_S,
        help=f"refresh this often, seconds (default {DEFAULT_INTERVAL_S:g})",
    )
    options.add_numbers(parser)


COMMAND: Final = Command(
    "top",
    "show a live view of the calls: rates, suspects, the store, and one call's transcript as it grows",
    _top,
    add=_add,
    description=(
        "A live view of the daemon's calls: their states, rates, delays, the store, and one call's transcript as it"
        " grows. `?` shows the keys."
    ),
    exits={2: "wrong usage, or not a terminal"},
)
