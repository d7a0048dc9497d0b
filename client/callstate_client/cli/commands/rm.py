"""`callstate rm`: deletes a call, and says what is left of it and for how long; `--everywhere`: erases it."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any, Final

from callstate_client.api import CallStore
from callstate_client.cli import options
from callstate_client.cli.command import Command
from callstate_client.cli.commands.erase import erase
from callstate_client.cli.output import Output
from callstate_client.cli.render.text import duration_text
from callstate_client.errors import CallstateError

MIB: Final = 1024 * 1024

_IN_STORE: Final = {
    "sqlite": "the SQLite file: in free pages and the write-ahead log, until they are used again",
    "redis": "Redis: in its append-only file until it is rewritten, in dumps until the next one; in replicas' too",
}


def _add(parser: argparse.ArgumentParser) -> None:
    options.add_id(parser)
    parser.add_argument(
        "--everywhere",
        action="store_true",
        help="also from the files of the daemon and its store, as `callstate erase` does; a live call is refused "
        "unless --end is given",
    )
    parser.add_argument("--end", action="store_true", help="with --everywhere: end it first if it is live")


async def _rm(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    if args.everywhere:
        return await erase(store, args, out)
    await store.delete(args.id)
    remains = await _remains(store)
    if out.as_json:
        out.document({"id": args.id, "deleted": True, "remains": remains})
        return 0
    out.text(f"{args.id} deleted")
    out.text(f"what is left of it, unless `callstate rm --everywhere {args.id}` removes its bytes now:")
    for place in remains:
        out.text(f"- {place}")
    return 0


async def _remains(store: CallStore) -> list[str]:
    """Where the bytes of a deleted call may be, and for how long."""
    try:
        info = await store.info()
        settings: dict[str, Any] = {each.key: each.value for each in await store.settings()}
    except CallstateError:  # too old to say, or not to us: the call is deleted all the same
        info, settings = {}, {}
    grown, ttl_s = settings.get("journal.checkpoint_min_bytes"), settings.get("store.ttl_s")
    size = f"{grown // MIB} MiB" if isinstance(grown, int) and grown >= MIB else "journal.checkpoint_min_bytes"
    kept = duration_text(timedelta(seconds=ttl_s)) if isinstance(ttl_s, int | float) else "store.ttl_s"
    here = [] if info.get("durability") == "memory" else [
        f"the journal: until a checkpoint, which is due after {size} or more of changes; then in spare segments, "
        "until they are used again"
    ]  # fmt: skip
    named = _IN_STORE.get(str(info.get("store")))
    in_store = list(_IN_STORE.values()) if named is None else [named]
    return [
        *here,
        *in_store,
        f"id and version, so that it does not come back: {kept}",
        "backups, exports, log lines (the id)",
    ]


COMMAND: Final = Command(
    "rm",
    "delete a call from the daemon and its store",
    _rm,
    add=_add,
    description="Delete a call from the daemon's memory and from its store. Its bytes are not overwritten at once: "
    "they may remain in the journal's files until these are used again, in free pages of an SQLite file, and in "
    "the files and backups of Redis. What remains, and for how long, is printed; --everywhere removes the bytes "
    "there as well.",
)
