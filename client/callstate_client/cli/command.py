"""What a command of `callstate` is: its name, its words in `--help`, its options, and the function that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli.output import Output

EXITS: Final[Mapping[int, str]] = {
    0: "done",
    1: "failed",
    2: "wrong usage",
    3: "no daemon",
    130: "interrupted",
    141: "output closed by its reader",
}
"""The exit codes of every command; one may say more precisely what some of them mean."""

NO_DAEMON: Final = 3


def no_options(_parser: argparse.ArgumentParser) -> None:
    """For a command without options of its own."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command. It has a `run`, a `run_alone` or `actions`.

    Args:
        name: as typed.
        help: one line, without a full stop.
        run: runs it with a store connected to the daemon, and returns the exit code.
        run_alone: runs it without a connection, for one that needs no daemon or connects in its own way.
        actions: commands beneath it, such as `quarantine ls`.
        add: adds its options to its parser.
        description: what it does, if one line is not enough.
        exits: what exit codes mean, where that is not what EXITS says.
        registers: it is a worker, and not just somebody who looks.
    """

    name: str
    help: str
    run: Callable[[CallStore, argparse.Namespace, Output], Awaitable[int]] | None = None
    run_alone: Callable[[argparse.Namespace, Output], int] | None = None
    actions: tuple[Command, ...] = ()
    add: Callable[[argparse.ArgumentParser], None] = no_options
    description: str = ""
    exits: Mapping[int, str] = field(default_factory=dict)
    registers: bool = False

    def epilog(self) -> str:
        """The exit codes in words, for `--help`."""
        return exit_codes({**EXITS, **self.exits})


def exit_codes(meanings: Mapping[int, str]) -> str:
    """Exit codes in words."""
    return "exit status: " + ", ".join(f"{status} {meaning}" for status, meaning in sorted(meanings.items()))
