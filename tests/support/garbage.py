"""Whether errors leave garbage that only a collection would free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_in_garbage() -> Iterator[list[str]]:
    """The errors raised meanwhile that would stay if nothing were collected; nobody may refer to them."""
    found: list[str] = []
    gc.collect()
    before = _errors()
    gc.disable()
    try:
        yield found
        found += [repr(error) for error in _errors() if not any(error is other for other in before)]
    finally:
        gc.enable()


def _errors() -> list[Exception]:
    return [each for each in gc.get_objects() if isinstance(each, Exception)]
