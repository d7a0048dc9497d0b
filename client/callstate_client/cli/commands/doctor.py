"""`callstate doctor`: compares the daemon's memory with its store, and checks the store itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

import msgspec
from rich.text import Text

from callstate_client.api import CallStore
from callstate_client.cli.command import Command
from callstate_client.cli.output import Output, printable
from callstate_client.protocol.results import CheckResult, Finding
from callstate_client.requests import CHECK_S


async def _doctor(store: CallStore, args: argparse.Namespace, out: Output) -> int:
    """Print what was found; exit code 1 if any of it is not repaired."""
    result = await store.check(repair=args.repair, timeout_s=max(args.timeout, CHECK_S))
    findings = [finding for finding in result.findings if finding.kind not in args.ignored]
    if out.as_json:
        out.document(msgspec.structs.replace(result, findings=findings))
    else:
        for finding in findings:
            out.text(*_lines(finding))
        out.text(_summary(result, findings))
    return 1 if result.left_out or any(not finding.repaired for finding in findings) else 0


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
    "compare the daemon's memory with its store, and check the store's settings",
    _doctor,
    add=_add,
    exits={0: "nothing found, or all of it repaired", 1: "something was found"},
)
