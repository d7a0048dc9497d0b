"""Runs one command of `callstate`, and says what its failure means: one line, and an exit code."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import Final

from callstate_client.cli import arguments, output
from callstate_client.cli.command import NO_DAEMON, Command
from callstate_client.cli.output import Output
from callstate_client.cli.stdio import FAILED
from callstate_client.client import connect
from callstate_client.errors import CallstateError, NoDaemonError, UnreadableError

UNREADABLE_HINT: Final = (
    "; it is left unchanged until `callstate rm` deletes it, or a save with if_version={version} replaces it"
)


def run(argv: Sequence[str]) -> int:
    """Run one command. Returns the exit code."""
    args = arguments.parse(argv)
    command: Command = args.chosen
    out = Output(as_json=args.json)
    try:
        if command.run_alone is not None:
            return command.run_alone(args, out)
        return asyncio.run(_connected(command, args, out))
    except NoDaemonError as error:
        output.error(str(error))
        return FAILED if error.silent or error.refused else NO_DAEMON
    except UnreadableError as error:
        output.error(f"{error}{UNREADABLE_HINT.format(version=error.version)}")
        return FAILED
    except CallstateError as error:
        output.error(str(error))
        return FAILED


async def _connected(command: Command, args: argparse.Namespace, out: Output) -> int:
    if command.run is None:
        raise AssertionError(command.name)
    # an operator wants to hear at once that there is no daemon: no waiting for one to start
    async with connect(args.socket, wait_s=0, timeout_s=args.timeout, register=command.registers) as store:
        return await command.run(store, args, out)
