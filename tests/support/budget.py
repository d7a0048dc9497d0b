"""How many examples a state machine runs: fewest in `make test-quick`, as many as are asked for in `make fuzz`."""

from __future__ import annotations

import os


def examples(in_the_suite: int) -> int:
    """How many examples a machine runs, given how many it runs in `make test`."""
    if fuzzed := os.environ.get("CALLSTATE_FUZZ_EXAMPLES"):
        return int(fuzzed)
    return in_the_suite // 4 if "CALLSTATE_TEST_QUICK" in os.environ else in_the_suite
