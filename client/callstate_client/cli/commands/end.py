"""`callstate end`: ends a call."""

from __future__ import annotations

import argparse
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli import options
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output
from callstate_client.model.state import Status


def _add(parser: argparse.ArgumentParser) -> None:
    options.add_id(parser)
    parser.add_argument("--reason", default="operator", help="why (default: operator)")


async def _end(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    record = await store.get(args.id, history="none")
    was_over = record.state.status == Status.ENDED
    reason = record.ended_reason if was_over else args.reason
    if not was_over:
        await store.end(args.id, args.reason)
    if out.as_json:
        out.document({"id": args.id, "ended_reason": reason, "was_ended": was_over})
    else:
        out.text(f"{args.id} had already ended: {reason}" if was_over else f"{args.id} ended: {reason}")
    return 0


COMMAND: Final = Command("end", "end a call", _end, add=_add)
