"""Parts of a history that are in the log, ahead of the record that makes a session of them; see parts.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class WrittenParts(NamedTuple):
    """The parts of one session.

    Args:
        key: of all of them.
        chunks: of the history, in each part; none if they could not be written.
        still_count: whether a replay finds them: not if a checkpoint has been begun since.
    """

    key: int
    chunks: Sequence[Sequence[bytes]]
    still_count: Callable[[], bool]
