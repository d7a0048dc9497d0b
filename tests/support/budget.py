"""How much of a long test runs: least in `make test-quick`, all of it in `make test`, more in `make fuzz`."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

CaseT = TypeVar("CaseT")

QUICK_SHARE = 4
"""`make test-quick` runs one example of so many."""

IS_QUICK = "CALLSTATE_TEST_QUICK" in os.environ


def examples(in_the_suite: int) -> int:
    """How many examples a property or a state machine tries, given how many it tries in `make test`."""
    if fuzzed := os.environ.get("CALLSTATE_FUZZ_EXAMPLES"):
        return int(fuzzed)
    return in_the_suite // QUICK_SHARE if IS_QUICK else in_the_suite


def sample(cases: Sequence[CaseT]) -> Sequence[CaseT]:
    """All cases, or in `make test-quick` every fourth from a random first one on: other runs try the others."""
    return cases[random.randrange(QUICK_SHARE) :: QUICK_SHARE] if IS_QUICK else cases
