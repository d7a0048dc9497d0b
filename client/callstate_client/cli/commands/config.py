"""`callstate config`: the configuration that a daemon runs with, and where each value comes from."""

from __future__ import annotations

import argparse
from typing import Final

from msgspec import UNSET
from rich.table import Table
from rich.text import Text

from callstate_client.api import CallStore
from callstate_client.cli import output
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output, printable
from callstate_client.cli.render.figures import json_text
from callstate_client.cli.stdio import FAILED
from callstate_client.protocol.results import Setting


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "keys", metavar="KEY", nargs="*", help="only these keys or sections, such as store or store.ttl_s"
    )
    parser.add_argument("--changed", action="store_true", help="only keys that are not at their default")


async def _config(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    settings = await store.settings()
    known = {each.key for each in settings} | {each.key.partition(".")[0] for each in settings}
    unknown = [key for key in args.keys if key not in known]
    if unknown:
        output.error(f"{unknown[0]}: no such key")
        return FAILED
    wanted = {*args.keys} or known
    shown = [
        each
        for each in settings
        if wanted & {each.key, each.key.partition(".")[0]} and not (args.changed and each.source == "default")
    ]
    if out.as_json:
        out.document(shown)
    elif shown:
        out.text(_table(shown))
    else:
        out.text("everything is at its default")
    return 0


def as_in_the_file(value: str | float) -> str:
    """A value as the configuration file has it. Daemons send `true` and `false` as words."""
    return value if value in ("true", "false") else json_text(value)


def _table(settings: list[Setting]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("KEY", "VALUE"):
        table.add_column(name, overflow="fold")
    table.add_column("FROM", overflow="fold")
    for each in settings:
        value = Text(printable(as_in_the_file(each.value)))
        if each.resolved:
            value.append(f" → {printable(each.resolved)}", style="dim")
        if each.pending is not UNSET:
            value.append(f" → {printable(as_in_the_file(each.pending))} after a restart", style="yellow")
        source = f"{each.source} {each.name}".rstrip()
        table.add_row(Text(each.key), value, Text(printable(source), style="dim" if not each.name else ""))
    return table


COMMAND: Final = Command(
    "config",
    "show the configuration in force, and where each value comes from",
    _config,
    add=_add,
    exits={1: "no such key, or it failed"},
    description="Show the configuration that the daemon runs with, and whether each value is a default or "
    "comes from the file, an environment variable or a flag. Passwords are shown as ***. An arrow shows what an "
    "empty value stands for on this host, or what a reload has read and only a restart applies. Before a "
    "start, callstated --check checks a configuration.",
)
