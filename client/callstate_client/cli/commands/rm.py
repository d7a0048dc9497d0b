"""`callstate rm`: deletes a call."""

from __future__ import annotations

import argparse
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli import options
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output


async def _rm(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    await store.delete(args.id)
    if out.as_json:
        out.document({"id": args.id, "deleted": True})
    else:
        out.text(f"{args.id} deleted")
    return 0


COMMAND: Final = Command(
    "rm",
    "delete a call, here and in the store",
    _rm,
    add=options.add_id,
    description="Delete a call from the daemon's memory and from its store. Its bytes are not overwritten at once: "
    "they may remain in the journal's files until these are used again, in free pages of an SQLite file, and in "
    "the files and backups of a Redis. `erase` removes them there as well.",
)
