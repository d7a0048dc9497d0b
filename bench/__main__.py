"""`python -m bench quick` and `python -m bench full`; see docs/performance.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bench.quick import PARTS, TINY, Effort, Quick
from bench.report import write_json
from bench.tables import fill_in
from bench.targets import Verdict

FULL_PARTS = ("comparisons", "bounds", "start", "growth", "stress", "loop", "churn", "dying")
"""As bench.full has them, which can't be imported without the `bench` extra."""

DOCS = Path(__file__).parent.parent / "docs"


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
    full = commands.add_parser("full", help="everything, as JSON and as plots and tables in docs/; some minutes")
    full.add_argument(
        "--only", metavar="PART", nargs="+", choices=FULL_PARTS,
        help=f"{', '.join(FULL_PARTS)}; the others' figures stay as they are in the file",
    )  # fmt: skip
    full.add_argument("--tiny", action="store_true", help="only whether everything runs")
    full.add_argument("--json", type=Path, metavar="FILE", default=DOCS / "performance.json", help="all figures")
    full.add_argument("--docs", type=Path, metavar="DIR", default=DOCS, help="where performance.md is")
    profile = commands.add_parser("profile", help="where a request's time goes in the daemon; needs py-spy")
    profile.add_argument("--seconds", type=float, default=5.0, help="to look at each verb")
    profile.add_argument("--instructions", action="store_true", help="count them too; needs valgrind, some minutes")
    profile.add_argument("--json", type=Path, metavar="FILE", default=DOCS / "performance.json", help="all figures")
    draw = commands.add_parser("draw", help="tables and plots anew from the figures of an earlier run")
    draw.add_argument("--json", type=Path, metavar="FILE", default=DOCS / "performance.json", help="all figures")
    draw.add_argument("--docs", type=Path, metavar="DIR", default=DOCS, help="where performance.md is")
    return parser.parse_args(arguments)


def quick(args: argparse.Namespace) -> None:
    """One line a target."""
    began = time.monotonic()
    run = Quick(TINY if args.tiny else Effort(rounds=args.rounds), frozenset(args.only), show)
    run.run()
    met = sum(verdict.met for verdict in run.verdicts)
    say(f"{met} of {len(run.verdicts)} targets met, {time.monotonic() - began:.0f} s")
    if args.json:
        write_json(args.json, "a short run", run.cells, run.verdicts)


def full(args: argparse.Namespace) -> None:
    """All figures, then what is drawn from them."""
    from bench.full import PARTS, TINY, WHOLE, Full  # noqa: PLC0415 - needs the `bench` extra, quick does not

    began = time.monotonic()
    run = Full(TINY if args.tiny else WHOLE, say, show)
    try:
        run.run(args.only or PARTS)
    finally:  # a run takes long: what was measured before a failure is kept
        figures = run.figures
        more = {name: getattr(figures, name) for name in ("race", "curves", "stress", "loop", "churn", "dying")}
        kind = "a full run in parts" if args.only else "a full run"
        write_json(args.json, kind, figures.cells, figures.verdicts, keep=bool(args.only), **more)
    met = sum(verdict.met for verdict in figures.verdicts)
    minutes = (time.monotonic() - began) / 60
    say(f"{met} of {len(figures.verdicts)} targets met, {minutes:.0f} minutes; all figures are in {args.json}")
    draw(args)


def profile(args: argparse.Namespace) -> None:
    """The daemon's CPU time by part, into the figures that there are already."""
    from bench.profiling import profile as measure  # noqa: PLC0415 - quick does without
    from bench.tables import profile as table  # noqa: PLC0415 - same

    figures = {"profile": measure(args.seconds, instructions=args.instructions)}
    told = json.loads(args.json.read_text("utf-8")) if args.json.exists() else {}
    args.json.write_text(json.dumps(told | figures, indent=1) + "\n", encoding="utf-8")
    say(table(figures))


def draw(args: argparse.Namespace) -> None:
    """Tables and plots, from the JSON alone."""
    from bench.plots import draw_all  # noqa: PLC0415 - matplotlib takes a second, and is of the `bench` extra

    told = json.loads(args.json.read_text("utf-8"))
    draw_all(told, args.docs)
    fill_in(args.docs / "performance.md", told)


def main() -> None:
    """Do what is asked for."""
    args = parse()
    {"quick": quick, "full": full, "profile": profile, "draw": draw}[args.command](args)


if __name__ == "__main__":
    main()
