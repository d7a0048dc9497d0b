"""`python -m bench quick`, `full`, `hostile` and `draw`; see docs/performance.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.hostile import run as hostile
from bench.report import write_json
from bench.suite import FULL, FULL_PARTS, QUICK, QUICK_PARTS, TINY, TINY_FULL, Effort, Run
from bench.tables import fill_in
from bench.targets import Verdict

DOCS = Path(__file__).parent.parent / "docs"


def say(line: str) -> None:
    """Print a line and flush it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show(verdict: Verdict) -> None:
    """Print a verdict."""
    say(verdict.line())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Compare callstate with its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    quick = commands.add_parser("quick", help="one line per target, in under a minute")
    quick.add_argument("--rounds", type=int, default=QUICK.rounds, help="samples of each side")
    quick.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    full = commands.add_parser("full", help="everything, as JSON and as plots and tables in docs/; some minutes")
    for command, parts, rest in (
        (quick, QUICK_PARTS, ""),
        (full, FULL_PARTS, "; the others' figures stay as they are"),
    ):
        command.add_argument("--only", metavar="PART", nargs="+", choices=parts, help=", ".join(parts) + rest)
        command.add_argument("--tiny", action="store_true", help="check only that everything runs")
    attacks = commands.add_parser("hostile", help="attackers against a daemon and one victim; ten minutes")
    attacks.add_argument("--only", metavar="WORD", nargs="+", default=[], help="attacks with these words; `growth`")
    attacks.add_argument(
        "--against", type=Path, metavar="PATH", help="an older checkout or environment, for `before`"
    )
    attacks.add_argument("--tiny", action="store_true", help="check only that everything runs")
    draw = commands.add_parser("draw", help="redraw tables and plots from the figures of an earlier run")
    for command in (full, attacks, draw):
        command.add_argument(
            "--json", type=Path, metavar="FILE", default=DOCS / "performance.json", help="all figures"
        )
        command.add_argument("--docs", type=Path, metavar="DIR", default=DOCS, help="where performance.md is")
    return parser.parse_args(arguments)


def measure(effort: Effort, args: argparse.Namespace) -> None:
    """Run all or some parts and write their figures, also those measured before a failure."""
    began = time.monotonic()
    run = Run(effort, show)
    kind = "a full run in parts" if args.only else "a full run" if effort.full else "a short run"
    try:
        run.run(args.only or (FULL_PARTS if effort.full else QUICK_PARTS))
    finally:
        if args.json:
            write_json(args.json, kind, run.figures, keep=bool(args.only) and effort.full)
    met = sum(verdict.met for verdict in run.figures.verdicts)
    say(f"{met} of {len(run.figures.verdicts)} targets met, {time.monotonic() - began:.0f} s")


def draw(args: argparse.Namespace) -> None:
    """Draw tables and plots from the JSON file."""
    from bench.plots import draw_all  # noqa: PLC0415 - matplotlib takes a second, and is in the `bench` extra

    figures = json.loads(args.json.read_text("utf-8"))
    draw_all(figures, args.docs)
    fill_in(args.docs / "performance.md", figures)


def main() -> None:
    """Run the command."""
    args = parse()
    if args.command == "quick":
        measure(TINY if args.tiny else replace(QUICK, rounds=args.rounds), args)
    elif args.command == "full":
        measure(TINY_FULL if args.tiny else FULL, args)
    elif args.command == "hostile":
        effort = hostile.TINY if args.tiny else hostile.Effort()
        for found in hostile.run(effort, args.against, args.only, say):
            fill_in(args.docs / "performance.md", hostile.write(args.json, found))
    if args.command in ("full", "draw"):
        draw(args)


if __name__ == "__main__":
    main()
