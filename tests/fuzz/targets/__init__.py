"""The targets of fuzzing, one per module."""

from __future__ import annotations

TARGETS = ("lines", "envelope", "head", "update", "turn", "conversation", "journal", "stored", "config")
"""The names of the modules; each has its seeds in `corpus/` and its tokens in `dictionary/` under the same name."""
