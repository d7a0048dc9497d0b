"""`callstate show`: one call with its conversation."""

from __future__ import annotations

import argparse
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli import options
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output
from callstate_client.cli.render.conversation import head_table, transcript_table
from callstate_client.cli.render.documents import record_document
from callstate_client.model.times import now

SHOWN_TURNS: Final = 20
"""Turns of a transcript shown without `--all`: what fits on a screen."""


def _add(parser: argparse.ArgumentParser) -> None:
    options.add_id(parser)
    parser.add_argument("--all", action="store_true", help="the whole transcript, not just its last 20 turns")
    options.add_numbers(parser)


async def _show(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    if out.as_json:
        out.document(record_document(await store.get(args.id), history=True, show_numbers=args.show_numbers))
        return 0
    record = await store.get(args.id, history="all" if args.all else SHOWN_TURNS)
    out.text(head_table(record, now(), show_numbers=args.show_numbers))
    if record.history_from:
        out.text(f"\n… {record.history_from} earlier turns; --all shows them")
    elif record.turn_count:
        out.text("")
    out.text(transcript_table(list(record.state.history), record.history_from))
    return 0


COMMAND: Final = Command("show", "show one call with its transcript", _show, add=_add)
