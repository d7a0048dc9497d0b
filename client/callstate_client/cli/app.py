"""The commands of `callstate`, and what each failure means as an exit code."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from callstate_client.api import CallStore
from callstate_client.cli import arguments, output, render
from callstate_client.cli.doctor import doctor
from callstate_client.cli.drain import drain
from callstate_client.cli.output import Output
from callstate_client.cli.quarantine import quarantine
from callstate_client.cli.simulate.command import simulate
from callstate_client.cli.stdio import FAILED
from callstate_client.cli.tail import tail
from callstate_client.client import connect
from callstate_client.errors import CallstateError, NoDaemonError, UnreadableError
from callstate_client.model.state import Status
from callstate_client.model.times import now

NO_DAEMON: Final = 3

SHOWN_TURNS: Final = 20
"""Turns of a transcript shown without `--all`: what fits on a screen."""

IN_MEMORY_ONLY: Final = (
    "only calls in the daemon's memory are listed; ended ones leave it after reaper.retention_s."
    " --scope all includes those in the store"
)

UNREADABLE_HINT: Final = (
    "; it is left unchanged until `callstate rm` deletes it, or a save with if_version={version} replaces it"
)

Command = Callable[[CallStore, argparse.Namespace, Output], Awaitable[int]]


def run(argv: Sequence[str]) -> int:
    """Run one command. Returns the exit code."""
    args = arguments.parse(argv)
    try:
        return asyncio.run(_run(args))
    except NoDaemonError as error:
        output.error(str(error))
        return FAILED if error.silent else NO_DAEMON
    except UnreadableError as error:
        output.error(f"{error}{UNREADABLE_HINT.format(version=error.version)}")
        return FAILED
    except CallstateError as error:
        output.error(str(error))
        return FAILED


async def _run(args: argparse.Namespace) -> int:
    # an operator wants to hear at once that there is no daemon: no waiting for one to start
    async with connect(args.socket, wait_s=0, timeout_s=args.timeout, register=args.command == "simulate") as store:
        return await COMMANDS[args.command](store, args, Output(as_json=args.json))


async def _ping(store: CallStore, _args: argparse.Namespace, out: Output) -> int:
    started = time.perf_counter()
    await store.ping()
    latency_ms = round((time.perf_counter() - started) * 1000, 3)
    if out.as_json:
        out.document({"ok": True, "latency_ms": latency_ms})
    else:
        out.text(f"the daemon answered in {latency_ms:g} ms")
    return 0


async def _info(store: CallStore, _args: argparse.Namespace, out: Output) -> int:
    return _figures(await store.info(), out)


async def _stats(store: CallStore, _args: argparse.Namespace, out: Output) -> int:
    return _figures(await store.stats(), out)


def _figures(figures: Mapping[str, object], out: Output) -> int:
    if out.as_json:
        out.document(figures)
    else:
        out.text(render.figures_table(figures))
    return 0


async def _ls(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    records = []
    matching = store.sessions(
        status=args.status,
        state=args.state,
        provider=args.provider,
        owner=args.owner,
        call_id=args.call_id,
        labels=dict(args.labels) or None,
        ended_since=args.ended_since,
        scope=args.scope,
    )
    async for record in matching:
        records.append(record)
        if len(records) == args.limit:
            break
    if out.as_json:
        out.document(
            [render.record_document(each, history=False, show_numbers=args.show_numbers) for each in records]
        )
    elif records:
        out.text(render.sessions_table(records, now(), show_numbers=args.show_numbers, width=out.width))
    else:
        out.text("no matching calls" if _filtered(args) else "no calls")
    if _may_be_in_store_only(args) and not out.as_json:
        output.error(IN_MEMORY_ONLY)
    return 0


def _may_be_in_store_only(args: argparse.Namespace) -> bool:
    """Whether matching calls may have ended so long ago that only the store has them."""
    return args.scope == "host" and bool(args.call_id or args.ended_since or args.status == Status.ENDED)


def _filtered(args: argparse.Namespace) -> bool:
    return any((args.status, args.state, args.provider, args.owner, args.call_id, args.labels, args.ended_since))


async def _show(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    if out.as_json:
        out.document(render.record_document(await store.get(args.id), history=True))
        return 0
    record = await store.get(args.id, history="all" if args.all else SHOWN_TURNS)
    out.text(render.head_table(record, now(), show_numbers=args.show_numbers))
    if record.history_from:
        out.text(f"\n… {record.history_from} earlier turns; --all shows them")
    elif record.turn_count:
        out.text("")
    out.text(render.transcript_table(list(record.state.history), record.history_from))
    return 0


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


async def _rm(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    await store.delete(args.id)
    if out.as_json:
        out.document({"id": args.id, "deleted": True})
    else:
        out.text(f"{args.id} deleted")
    return 0


COMMANDS: Final[Mapping[str, Command]] = {
    "ping": _ping,
    "info": _info,
    "stats": _stats,
    "ls": _ls,
    "show": _show,
    "end": _end,
    "rm": _rm,
    "quarantine": quarantine,
    "tail": tail,
    "drain": drain,
    "doctor": doctor,
    "simulate": simulate,
}
