"""Curves in one line of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"


def sparkline(points: Iterable[float], cells: int) -> str:
    """The last points as bars of eighths, from 0 to the highest of them; padded on the left.

    Args:
        points: not negative, the latest last.
        cells: how wide.
    """
    shown = [*points][-cells:]
    top = max(shown, default=0.0)
    bars = "".join(BARS[min(len(BARS) - 1, int(point / top * len(BARS)))] if top else BARS[0] for point in shown)
    return bars.rjust(cells)
