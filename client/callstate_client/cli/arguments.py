"""The command line of `callstate`: commands, options, and the values they take."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from callstate_client.cli.simulate.scenario import MAX_TURNS
from callstate_client.model.times import now, parse_time
from callstate_client.protocol.events import DEFAULT_TYPES, TYPES, Cursor
from callstate_client.protocol.ids import SESSION_ID_RULE, is_session_id
from callstate_client.protocol.params import SESSION_STATES

DEFAULT_TIMEOUT_S: Final = 5.0

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def package_version() -> str:
    """The installed version, or `unknown` where the package runs uninstalled."""
    try:
        return version("callstate")
    except PackageNotFoundError:
        return "unknown"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; prints usage to stderr and exits with 2 if they are wrong."""
    # options common to all commands may stand before and after the command's name; a default of the
    # second parser would overwrite what the first one has read, hence SUPPRESS
    parser = argparse.ArgumentParser(
        prog="callstate",
        description="Inspect and manage the live calls of callstated.",
        epilog="exit codes: 0 done, 1 failed, 2 wrong usage, 3 no daemon, 130 interrupted",
        parents=[_common(socket=None, json=False, timeout=DEFAULT_TIMEOUT_S)],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"callstate {package_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    common = _common(socket=argparse.SUPPRESS, json=argparse.SUPPRESS, timeout=argparse.SUPPRESS)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)

    command("ping", "check that the daemon answers")
    command("info", "show the daemon's version, store and durability")
    command("stats", "show the daemon's state: sessions, store, journal, counters")
    _add_ls(command("ls", "list the calls in the daemon's memory; ended ones leave it after reaper.retention_s"))
    _add_show(command("show", "show one call with its transcript"))
    _add_end(command("end", "end a call"))
    _add_id(command("rm", "delete a call and everything stored about it"))
    _add_quarantine(
        command(
            "quarantine", "show what the store refuses and what other hosts took over; try it again, or drop it"
        ),
        common,
    )
    _add_tail(command("tail", "print events as they happen, one per line, until interrupted"))
    _add_drain(command("drain", "refuse new calls, so that the daemon can be stopped when the last one is over"))
    _add_doctor(command("doctor", "compare the daemon's memory with its store, and check the store's settings"))
    _add_simulate(command("simulate", "play realistic calls and check that nothing is lost"))
    return parser.parse_args(argv)


def _common(*, socket: str | None, json: bool | str, timeout: float | str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--socket", metavar="PATH", default=socket, help="the daemon's socket (default: found as workers do)"
    )
    parser.add_argument("--json", action="store_true", default=json, help="print one JSON document")
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=_positive,
        default=timeout,
        help=f"give up after this many seconds without an answer (default {DEFAULT_TIMEOUT_S:g})",
    )
    return parser


def _add_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", type=_session_id, help="the session's id")


def _add_numbers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--show-numbers",
        action="store_true",
        help="print calling and called numbers in full, not just their last two digits",
    )


def _add_ls(parser: argparse.ArgumentParser) -> None:
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
        type=_label,
        action="append",
        default=[],
        dest="labels",
        help="only calls with this label; given more than once, all must match",
    )
    parser.add_argument(
        "--ended-since",
        metavar="T",
        type=_since,
        help="only calls that ended since then: an RFC 3339 time, or an age such as 90s, 10m, 2h, 1d",
    )
    parser.add_argument(
        "--scope",
        choices=("host", "all"),
        default="host",
        help="host: calls in this daemon's memory (default); all: those in the store, of every host, as well",
    )
    parser.add_argument("--limit", metavar="N", type=_count, help="at most this many (default: all)")
    _add_numbers(parser)


def _add_show(parser: argparse.ArgumentParser) -> None:
    _add_id(parser)
    parser.add_argument("--all", action="store_true", help="the whole transcript, not just its last 20 turns")
    _add_numbers(parser)


def _add_end(parser: argparse.ArgumentParser) -> None:
    _add_id(parser)
    parser.add_argument("--reason", default="operator", help="why (default: operator)")


def _add_quarantine(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)

    listing = action(
        "ls",
        "list what the store refuses, and copies of sessions that another host took over",
    )
    listing.add_argument("--limit", metavar="N", type=_count, help="at most this many (default: all)")
    show = action("show", "show one of them, and what the store has in its place")
    _add_id(show)
    _add_numbers(show)
    retry = action("retry", "write them again now instead of waiting for their backoff")
    retry.add_argument("ids", metavar="ID", type=_session_id, nargs="*", help="only these (default: all)")
    _add_id(action("drop", "give up what the daemon has of one: for good, and what the store has is what counts"))


def _add_tail(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--type",
        metavar="T",
        choices=sorted(TYPES),
        action="append",
        default=[],
        dest="types",
        help=f"only events of this type; may be repeated. One of {', '.join(sorted(DEFAULT_TYPES))}; "
        "or turn, of which there are many (default: all but turn)",
    )
    parser.add_argument(
        "--since",
        metavar="STREAM:SEQ",
        type=_cursor,
        help="resume after this event, as far as the daemon still has the later ones",
    )


def _add_drain(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--off", action="store_true", help="accept new calls again")
    what.add_argument(
        "--wait",
        metavar="S",
        type=_positive,
        help="wait up to this many seconds until the last call is over; exit status 1 if any are left",
    )


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="repair what can be repaired safely")
    parser.add_argument(
        "--ignore",
        metavar="KIND",
        action="append",
        default=[],
        dest="ignored",
        help="leave out findings of this kind, such as not_persistent; may be repeated",
    )


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", metavar="N", type=_count, default=50, help="number of calls (default 50)")
    parser.add_argument(
        "--rate",
        metavar="CALLS_PER_S",
        type=_positive,
        default=10.0,
        help="mean arrivals per second (default 10)",
    )
    parser.add_argument(
        "--speed", metavar="X", type=_positive, default=30.0, help="multiple of real time (default 30)"
    )
    parser.add_argument("--seed", metavar="S", type=int, help="same seed, same calls (default: a new one)")
    parser.add_argument(
        "--die",
        metavar="FRACTION",
        type=_fraction,
        default=0.0,
        help="fraction of calls that lose their worker and are never ended, 0 to 1 (default 0)",
    )
    parser.add_argument(
        "--turns", metavar="A:B", type=_range, default=(6, 16), help="turns per call (default 6:16)"
    )


# -- values: argparse prints the text of an ArgumentTypeError after the option's name ----------------------


def _positive(text: str) -> float:
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"a number over 0, not {text!r}")
    return value


def _fraction(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a fraction from 0 to 1, not {text!r}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"a number, not {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number, 1 or more, not {text!r}")
    return int(text)


def _range(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    if not (low.isdecimal() and (high.isdecimal() or not colon)):
        raise argparse.ArgumentTypeError(f"A:B, such as 6:16, not {text!r}")
    least, most = int(low), int(high or low)
    if not 1 <= least <= most <= MAX_TURNS:
        raise argparse.ArgumentTypeError(f"A:B with 1 <= A <= B <= {MAX_TURNS}, not {text!r}")
    return least, most


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"NAME=VALUE, not {text!r}")
    return name, value


def _cursor(text: str) -> Cursor:
    stream, _, seq = text.rpartition(":")
    if not (stream and seq.isascii() and seq.isdigit() and len(seq) <= 18):
        raise argparse.ArgumentTypeError(f"STREAM:SEQ, such as 9f2c61d07a3be458:17, not {text!r}")
    return Cursor(stream, int(seq))


def _session_id(text: str) -> str:
    if not is_session_id(text):
        raise argparse.ArgumentTypeError(f"{SESSION_ID_RULE}, not {text!r}")
    return text


def _since(text: str) -> datetime:
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            return now() - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(
            f"a time such as 2026-05-01T12:00:00Z or an age such as 10m, not {text!r}"
        ) from error
