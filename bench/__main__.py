"""`python -m bench quick`: one line a target."""

from __future__ import annotations

import argparse
import sys
import time

from bench import quick


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the arguments, run, report."""
    began = time.monotonic()
    quick.run(quick.Effort(), say)
    say(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
