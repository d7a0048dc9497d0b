"""The command line of `callstate`: the options that all commands have, and the commands in their order."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, Final

from callstate_client.cli import values
from callstate_client.cli.command import EXITS, Command, exit_codes
from callstate_client.cli.commands.table import COMMANDS
from callstate_client.cli.version import package_version

DEFAULT_TIMEOUT_S: Final = 5.0


class _CommandParser(argparse.ArgumentParser):
    """The parser of one command: a word with one dash that is no option of it is a value, as ids may begin so."""

    def _parse_optional(self, arg_string: str) -> Any:
        if arg_string[:1] == "-" != arg_string[1:2] and arg_string not in self._option_string_actions:
            return None
        return super()._parse_optional(arg_string)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments; prints usage to stderr and exits with 2 if they are wrong.

    Besides the options, `chosen` is the Command.
    """
    return parser().parse_args(argv)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    # options common to all commands may stand before and after the command's name; a default of the
    # second parser would overwrite what the first one has read, hence SUPPRESS
    top = argparse.ArgumentParser(
        prog="callstate",
        description="Inspect and manage the live calls of callstated.",
        epilog=exit_codes(EXITS),
        parents=[_common(socket=None, json=False, timeout=DEFAULT_TIMEOUT_S)],
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"callstate {package_version()}")
    common = _common(socket=argparse.SUPPRESS, json=argparse.SUPPRESS, timeout=argparse.SUPPRESS)
    parsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser)
    _add_commands(parsers, COMMANDS, common)
    return top


def _add_commands(
    parsers: argparse._SubParsersAction[Any], commands: Iterable[Command], common: argparse.ArgumentParser
) -> None:
    for command in commands:
        parser = parsers.add_parser(
            command.name,
            help=command.help,
            description=command.description or f"{command.help[:1].upper()}{command.help[1:]}.",
            epilog=command.epilog(),
            parents=[common],
            allow_abbrev=False,
        )
        command.add(parser)
        if command.actions:
            actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
            _add_commands(actions, command.actions, common)
        else:
            parser.set_defaults(chosen=command)


def _common(*, socket: str | None, json: bool | str, timeout: float | str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(
        "--socket", metavar="PATH", default=socket, help="the daemon's socket (default: found as workers do)"
    )
    parser.add_argument("--json", action="store_true", default=json, help="print one JSON document")
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=values.positive,
        default=timeout,
        help=f"give up after this many seconds without an answer (default {DEFAULT_TIMEOUT_S:g})",
    )
    return parser
