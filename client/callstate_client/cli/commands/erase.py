"""`callstate erase`: deletes a call, and what files have of it."""

from __future__ import annotations

import argparse
from typing import Final

from callstate_client import requests
from callstate_client.api import CallStore
from callstate_client.cli import options
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output


def _add(parser: argparse.ArgumentParser) -> None:
    options.add_id(parser)
    parser.add_argument("--end", action="store_true", help="end it first if it is live, which is refused otherwise")


async def erase(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Erase the call `args.id`; `args.end`: end it first."""
    remains = await store.erase(args.id, end=args.end, timeout_s=requests.ERASE_S)
    if out.as_json:
        out.document({"id": args.id, "erased": True, "remains": remains})
    else:
        out.text(f"{args.id} erased: no file of the daemon or its store contains its bytes any more")
        out.text("beyond the daemon's reach:")
        for place in remains:
            out.text(f"- {place}")
    return 0


COMMAND: Final = Command(
    "erase",
    "delete a call, and remove its bytes from the daemon's files and its store",
    erase,
    add=_add,
    description="Delete a call from memory, store and journal, and return only when no file of the daemon contains "
    "its bytes any more: a checkpoint of the journal is made, its old and spare segments are removed, and an "
    "SQLite file is rewritten. It may be repeated, also after `rm`. What the daemon can't reach is printed: "
    "Redis's own files until Redis next rewrites them, backups, and the disk blocks of removed files.",
)
