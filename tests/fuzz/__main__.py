"""Fuzzes all targets, or those that are named: `python -m fuzz --seconds 60 [TARGET…]`; exit status 1 if any fails.

Each target runs in processes of its own, as many at a time as there are processors. What is found goes to `.fuzz/`:
a corpus for each target, with which the next run goes on, and the inputs that failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz.places import FOUND, corpus, dictionary
from fuzz.targets import TARGETS

INPUT_S = 20
"""An input that takes longer fails. The longest take some milliseconds on an idle machine."""

RSS_MIB = 1024
"""A process that takes more fails; all of them stay below 300 MiB."""

INPUT_BYTES = 16384
"""Longest input."""

START_S = 120
"""How long a process may take beyond its time: to import, and to read its corpus."""


def main() -> int:
    """Run the targets, and say how each ended."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target, default 60")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.process_cpu_count() if sys.version_info >= (3, 13) else len(os.sched_getaffinity(0)),
        help="targets at a time, by default one per processor",
    )
    args = parser.parse_args()
    unknown = [name for name in args.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    with ThreadPoolExecutor(args.jobs) as pool:
        results = [*pool.map(lambda target: run(target, args.seconds), args.targets or TARGETS)]
    return int(not all(results))


def run(target: str, seconds: int) -> bool:
    """Fuzz one target; returns whether nothing failed."""
    found, failed = FOUND / "corpus" / target, FOUND / "failed"
    found.mkdir(parents=True, exist_ok=True)
    failed.mkdir(exist_ok=True)
    options = {
        "max_total_time": seconds, "timeout": INPUT_S, "rss_limit_mb": RSS_MIB, "max_len": INPUT_BYTES,
        "artifact_prefix": f"{failed}/{target}-", "dict": dictionary(target), "print_final_stats": 1,
    }  # fmt: skip
    command = [sys.executable, "-m", "fuzz.one", target, *(f"-{name}={value}" for name, value in options.items())]
    try:
        done = subprocess.run(
            [*command, str(found), str(corpus(target))],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}, timeout=seconds + START_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        _say(f"{target}: did not end in time\n{_tail(late.stdout or b'')}")
        return False
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        _say(f"{target}: failed\n{_tail(done.stdout)}")
        return False
    executed = [line.split()[-1] for line in output.splitlines() if "number_of_executed_units" in line]
    _say(f"{target}: {executed[0] if executed else 'no'} inputs, nothing found")
    return True


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _tail(output: bytes) -> str:
    lines = output.decode(errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines if not line.startswith(("#", "INFO:", "WARNING:")))[-6000:]


if __name__ == "__main__":
    sys.exit(main())
