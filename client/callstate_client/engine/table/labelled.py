"""Sessions in an order, found by their labels without a look at the others. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Labelled:
    """Ids in the order in which they were put in, and for each label those that have it, in the same order."""

    def __init__(self) -> None:
        self._labels: dict[str, Mapping[str, str]] = {}
        self._having: dict[tuple[str, str], dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self._labels)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._labels

    def put(self, session_id: str, labels: Mapping[str, str]) -> None:
        """It is in, with these labels: last, or where it was; given other labels, it is the last of those."""
        before = self._labels.get(session_id)
        if before is not None and (before is labels or before == labels):
            return
        if before:
            self._unlabel(session_id, before)
        self._labels[session_id] = labels
        for pair in labels.items():
            self._having.setdefault(pair, {})[session_id] = None

    def discard(self, session_id: str) -> None:
        """It is in no more, if it was."""
        labels = self._labels.pop(session_id, None)
        if labels:
            self._unlabel(session_id, labels)

    def having(self, labels: Mapping[str, str]) -> Iterator[str]:
        """Those with all of these labels, in order: of the label that the fewest have each is looked at."""
        if not labels:
            yield from self._labels
            return
        found, *others = sorted((self._having.get(pair, {}) for pair in labels.items()), key=len)
        for other in others[:-1]:
            found = {session_id: None for session_id in found if session_id in other}
        if not others:
            yield from found
            return
        last = others[-1]
        for session_id in found:  # in one test each: there may be tens of thousands
            if session_id in last:
                yield session_id

    def _unlabel(self, session_id: str, labels: Mapping[str, str]) -> None:
        for pair in labels.items():
            having = self._having[pair]
            del having[session_id]
            if not having:
                del self._having[pair]
