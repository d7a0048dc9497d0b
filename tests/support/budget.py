"""How hard the state machines try: a little in the suite, as long as asked by `make fuzz`."""

from __future__ import annotations

import os


def examples(in_the_suite: int) -> int:
    """How many examples a machine runs."""
    return int(os.environ.get("CALLSTATE_FUZZ_EXAMPLES", in_the_suite))
