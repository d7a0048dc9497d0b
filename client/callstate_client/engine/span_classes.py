"""Classes of timeouts: as clients choose them, there may be as many as sessions, and each tick looks at each.

So the first EXACT_SPANS that are in use at the same time are kept as they are; another one is rounded up to the
longest of its class. Pure.
"""

from __future__ import annotations

from math import ceil, frexp, ldexp
from typing import Final

EXACT_SPANS: Final = 64
"""Timeouts in use at once that are kept to the clock's precision, besides the default."""

SPAN_CLASSES: Final = 16
"""Other timeouts are rounded up to one of so many for each doubling, so by at most a sixteenth. From LEAST_SPAN_S
to ten years that makes 620, and a tick looks at each in a quarter of a microsecond."""

LEAST_SPAN_S: Final = 2.0**-10
"""The shortest of them, about a millisecond."""


def class_of(span_s: float) -> float:
    """The longest span of the class of this one, seconds."""
    mantissa, exponent = frexp(max(span_s, LEAST_SPAN_S))
    return ldexp(ceil(mantissa * 2 * SPAN_CLASSES), exponent) / (2 * SPAN_CLASSES)
