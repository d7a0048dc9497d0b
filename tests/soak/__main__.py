"""`python -m soak --seed N --minutes N`: see run.py. Exits with 1, and keeps its files, if it fails."""

from __future__ import annotations

import argparse
import random
import sys
import traceback

import uvloop

from soak.oracles import Violation
from soak.run import Soak


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def first_of(error: BaseException) -> BaseException:
    """The violation in a group of exceptions, or else its first exception."""
    while isinstance(error, BaseExceptionGroup):
        violations, others = error.split(Violation)
        error = (violations or others or error).exceptions[0]
    return error


async def soak(seed: int, minutes: float) -> int:
    """Run one soak, and return the exit status."""
    say(f"seed {seed}, {minutes:g} minutes; `make soak SEED={seed} MINUTES={minutes:g}` repeats the schedule:")
    run = Soak(seed, minutes, say)
    try:
        await run.run()
    except Exception as error:  # noqa: BLE001 - whatever fails, the seed has to be told
        await run.stage.close(keep=True)
        cause = first_of(error)
        say(f"\nFAILED: {type(cause).__name__}: {cause}")
        say("the last steps before:")
        for step in run.latest[-5:]:
            say(f"  {step}")
        if not isinstance(cause, Violation):
            say("".join(traceback.format_exception(error)))
        say(f"seed {seed}; log, journal and schedule are in {run.stage.daemon.root}")
        return 1
    await run.stage.close(keep=False)
    say(f"seed {seed}: nothing was violated")
    return 0


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m soak")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is left to chance; 0: a new one")
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    seed = args.seed or random.SystemRandom().randrange(1, 2**32)
    sys.exit(uvloop.run(soak(seed, args.minutes)))


if __name__ == "__main__":
    main()
