"""`callstate doctor`: compares the daemon's memory with its store, checks the store, and says who has access."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec
from rich.text import Text

from callstate_client.api import CallStore
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output, printable
from callstate_client.cli.render.access import access_lines, socket_line
from callstate_client.cli.users import group_name, user_name
from callstate_client.errors import CallstateError
from callstate_client.protocol.results import CheckResult, Finding
from callstate_client.requests import CHECK_S


async def _doctor(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Print what was found; exit code 1 if any of it is not repaired."""
    result = await store.check(repair=args.repair, timeout_s=max(args.timeout, CHECK_S))
    findings = [finding for finding in result.findings if finding.kind not in args.ignored]
    access = await _access(store)
    if out.as_json:
        members = msgspec.structs.asdict(msgspec.structs.replace(result, findings=findings))
        out.document(members | {"access": access})
    else:
        for finding in findings:
            out.text(*_lines(finding))
        for line in access:
            out.text(printable(line))
        out.text(_summary(result, findings))
    return 1 if result.left_out or any(not finding.repaired for finding in findings) else 0


async def _access(store: CallStore) -> list[str]:
    """Who may use the daemon; what is not known is left out."""
    lines: list[str] = []
    with suppress(CallstateError):  # an older daemon
        lines += access_lines(await store.settings())
    path = getattr(store, "path", None)
    with suppress(OSError):
        if isinstance(path, str) and lines:
            found = await asyncio.to_thread(os.stat, path)
            lines.append(socket_line(path, found.st_mode, user_name(found.st_uid), group_name(found.st_gid)))
    return lines


def _lines(finding: Finding) -> list[Text]:
    subject = f" {printable(finding.session_id)}" if finding.session_id else ""
    state = "repaired" if finding.repaired else printable(finding.remedy)
    return [
        Text.assemble((printable(finding.kind), "bold"), f"{subject}: {printable(finding.detail)}"),
        Text(f"    {state}", style="green" if finding.repaired else "yellow"),
    ]


def _summary(result: CheckResult, findings: Sequence[Finding]) -> str:
    sessions = "1 session" if result.checked == 1 else f"{result.checked} sessions"
    count = len(findings) + result.left_out
    found = {0: "nothing found", 1: "1 finding"}.get(count, f"{count} findings")
    more = f", {result.left_out} of them not shown" if result.left_out else ""
    return f"{sessions} compared with the store, {found}{more}"


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="repair what can be repaired safely")
    parser.add_argument(
        "--ignore",
        metavar="KIND",
        action="append",
        default=[],
        dest="ignored",
        help="leave out findings of this kind, such as not_persistent; may be repeated",
    )


COMMAND: Final = Command(
    "doctor",
    "compare the daemon's memory with its store, check the store's settings, and say who has access",
    _doctor,
    add=_add,
    exits={0: "nothing found, or all of it repaired", 1: "something was found"},
)
