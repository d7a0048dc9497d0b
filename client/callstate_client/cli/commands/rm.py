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


COMMAND: Final = Command("rm", "delete a call and everything stored about it", _rm, add=options.add_id)
