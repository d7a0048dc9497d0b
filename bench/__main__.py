"""`python -m bench quick` and `python -m bench full`; see docs/performance.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench.quick import PARTS, TINY, Effort, Quick
from bench.report import write_json
from bench.targets import Verdict


def say(line: str) -> None:
    """Tell it now: a run takes its time."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show(verdict: Verdict) -> None:
    """One line."""
    say(verdict.line())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="How fast callstate is, beside its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    quick = commands.add_parser("quick", help="one line a target, in under a minute")
    quick.add_argument("--only", metavar="PART", nargs="+", choices=PARTS, default=PARTS, help=", ".join(PARTS))
    quick.add_argument("--rounds", type=int, default=Effort.rounds, help="samples of each side")
    quick.add_argument("--tiny", action="store_true", help="only whether everything runs")
    quick.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args(arguments)


def main() -> None:
    """Read the arguments, run, report."""
    args = parse()
    began = time.monotonic()
    run = Quick(TINY if args.tiny else Effort(rounds=args.rounds), frozenset(args.only), show)
    run.run()
    met = sum(verdict.met for verdict in run.verdicts)
    say(f"{met} of {len(run.verdicts)} targets met, {time.monotonic() - began:.0f} s")
    if args.json:
        write_json(args.json, run.cells, run.verdicts)


if __name__ == "__main__":
    main()
