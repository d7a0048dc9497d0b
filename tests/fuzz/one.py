"""One target in one process: `python -m fuzz.one TARGET [options of libFuzzer]`, which `python -m fuzz` starts.

A file as an argument is run by itself; see CONTRIBUTING.md.
"""

from __future__ import annotations

import importlib
import random
import sys

import atheris

from fuzz.mutation import mutate_tokens
from fuzz.places import tokens

OURS = ["callstate_client", "callstate_sidecar"]


def main(argv: list[str]) -> None:
    """Fuzz until something fails, or the time is up."""
    target = argv[1]
    words = tokens(target)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() < 0.5:
            return atheris.Mutate(data, most)
        return mutate_tokens(data, words, dice)[:most]

    with atheris.instrument_imports(include=OURS):
        check = importlib.import_module(f"fuzz.targets.{target}").check
    binary = target in ("lines", "journal")  # no text
    atheris.Setup([argv[0], *argv[2:]], check, **({} if binary else {"custom_mutator": mutate}))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
