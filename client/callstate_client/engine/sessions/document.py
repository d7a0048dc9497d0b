"""One session as bytes: a head that rarely changes, counters that change often, and the history as chunks.

Nothing is kept as a tree of dicts: 20 turns would take ten times the size of their JSON. A load joins the parts;
a turn is appended without reading the earlier ones. Pure: no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import count
from typing import Any, Final

import msgspec
from msgspec import Struct

from callstate_client.engine.sessions.folding import FOLD_BYTES, FOLD_CHUNKS, MAX_PIECES, fold, fold_all
from callstate_client.engine.sessions.head import Head
from callstate_client.engine.sessions.layout import END, HISTORY, InStore, room_for
from callstate_client.engine.sessions.tail import cut_run, last_turns
from callstate_client.model import go_json
from callstate_client.model.times import format_us

HEAD_REST_BYTES: Final = 320
"""Approximate size of a document without `fields` and turns: status, `updated_at`, metrics, names, brackets."""

UNCUT_BYTES: Final = 2 * FOLD_BYTES
"""A longer chunk is cut before a turn is looked for in it."""


class _Created(Struct):
    created_at: str


class Place(Struct, frozen=True):
    """The location of a turn."""

    index: int
    """Index in the history, from 0."""
    chunk: int
    start: int
    """Where `parts` begin in the chunk, bytes."""
    parts: list[bytes]
    """The turns of the chunk from that offset on."""
    at: int
    """Index in `parts`, from 0."""

    @property
    def text(self) -> bytes:
        """The turn."""
        return self.parts[self.at]


_encode = msgspec.json.encode
_decode = msgspec.json.decode
_created = msgspec.json.Decoder(_Created).decode

_lineages = count(1)


class Document:
    """One session's document, in parts.

    A mutation replaces whole objects, and `chunks` only grows at its end, so that an undo takes constant time. A
    chunk that was added at once, by a save, a replay or a read of the store, may be the whole history. What looks
    for turns in it has it cut first (`cut_at`), as parsing megabytes takes tens of milliseconds.
    """

    __slots__ = (
        "call_id",
        "chunks",
        "counts",
        "fields",
        "full",
        "history_bytes",
        "lineage",
        "metrics",
        "provider",
        "status",
        "turn_count",
        "updated_text",
        "updated_us",
    )

    def __init__(self, head: Head, updated_us: int) -> None:
        self.chunks: list[bytes] = []
        self.counts: list[int] = []
        """The number of turns in each chunk."""
        self.turn_count: int = 0
        self.history_bytes: int = 0
        self.lineage = next(_lineages)
        """A new number whenever turns are replaced: while it is the same, turns were only appended."""
        self.full = False
        """A turn was refused for lack of room, which is an event; False again once one is amended to be shorter."""
        self.updated_text: tuple[str, int] = ("", 0)
        """`updated_at` as the store's document has it, perhaps finer than ours, and the same in microseconds."""
        self.take_head(head, updated_us)

    def take_head(self, head: Head, updated_us: int) -> None:
        """Replace everything but the history."""
        self.fields = head.fields
        self.provider = head.provider
        self.call_id = head.call_id
        self.status = head.status
        self.metrics = head.metrics
        self.updated_us = updated_us

    # -- undo ---------------------------------------------------------------------------------------------

    def mark(self) -> tuple[Any, ...]:
        """Save the current state for `restore`."""
        return (
            self.fields, self.provider, self.call_id, self.status, self.metrics, self.updated_us,
            self.chunks, self.counts, len(self.chunks), self.turn_count, self.history_bytes, self.lineage,
            self.updated_text,
        )  # fmt: skip

    def restore(self, mark: tuple[Any, ...]) -> None:
        """Undo everything since the mark."""
        (
            self.fields, self.provider, self.call_id, self.status, self.metrics, self.updated_us,
            self.chunks, self.counts, length, self.turn_count, self.history_bytes, self.lineage,
            self.updated_text,
        ) = mark  # fmt: skip
        del self.chunks[length:]
        del self.counts[length:]

    # -- history ------------------------------------------------------------------------------------------

    def append(self, turns: bytes, count: int) -> None:
        """Append turns (comma-joined, no brackets) to the history."""
        if not count:
            return
        if len(self.chunks) >= FOLD_CHUNKS and len(self.chunks[-FOLD_CHUNKS]) < FOLD_BYTES // 2:
            self.chunks, self.counts = fold(self.chunks, self.counts)  # new lists: a mark of the old stays valid
        self.history_bytes += len(turns) + (1 if self.chunks else 0)
        self.chunks.append(turns)
        self.counts.append(count)
        self.turn_count += count

    def replace_history(self, turns: bytes, count: int) -> None:
        """Replace the history with these turns."""
        self.chunks, self.counts = ([turns], [count]) if count else ([], [])
        self.turn_count = count
        self.history_bytes = len(turns)
        self.lineage = next(_lineages)

    def replace_pieces(self, pieces: Sequence[tuple[bytes, int]]) -> None:
        """Replace the history with these pieces of it, each with the number of its turns."""
        self.chunks, self.counts = [turns for turns, _ in pieces], [count for _, count in pieces]
        self.turn_count = sum(self.counts)
        self.history_bytes = sum(map(len, self.chunks)) + len(pieces) - 1
        self.lineage = next(_lineages)

    def take_history(self, other: Document) -> None:
        """Replace the history with that of another document, which is not needed any more."""
        self.chunks, self.counts = other.chunks, other.counts
        self.turn_count, self.history_bytes = other.turn_count, other.history_bytes
        self.lineage = next(_lineages)

    def repeated(self, text: bytes, at: int) -> int:
        """The offset up to which a text, from `at` on, equals the kept history; `at` itself if it does not."""
        end = at
        for chunk in self.chunks:
            if end != at:
                if not text.startswith(b",", end):
                    return at
                end += 1
            if not text.startswith(chunk, end):
                return at
            end += len(chunk)
        return end

    def extension(self, history: bytes) -> bytes | None:
        """What follows the kept history in a longer one, or None if that does not begin with it."""
        end = self.repeated(history, 0)
        if not end and self.chunks:
            return None
        rest = history[end:].lstrip()
        if not end or not rest:
            return rest
        # `{"a":1}` is also a prefix of `{"a":1}2`: a whole turn is followed by a comma
        return rest[1:].lstrip() if rest[:1] == b"," else None

    def last_turns(self, count: int) -> bytes:
        """The last turns, comma-joined; reads only the chunks that contain them."""
        return b",".join(self.last_chunks(count))

    def last_chunks(self, count: int) -> list[bytes]:
        """The last turns as chunks."""
        if count >= self.turn_count:
            return self.chunks
        index = len(self.chunks)
        while count > 0:
            index -= 1
            count -= self.counts[index]
        if not count:
            return self.chunks[index:]
        wanted = count + self.counts[index]
        parts = last_turns(self.chunks[index], wanted)[1]
        return [b",".join(parts[len(parts) - wanted :]), *self.chunks[index + 1 :]]

    # -- cutting ------------------------------------------------------------------------------------------

    def uncut_last(self, count: int) -> int | None:
        """The index of the chunk that has the first of the last turns, if it is to be cut; None if not."""
        if self.history_bytes <= UNCUT_BYTES or not 0 < count < self.turn_count:
            return None
        at = len(self.chunks)
        while count > 0:
            at -= 1
            count -= self.counts[at]
        return at if count and len(self.chunks[at]) > UNCUT_BYTES else None

    def uncut(self, index: int | None) -> int | None:
        """The index of the chunk with a turn, as `find_turn` takes it, if it is to be cut; None if not."""
        at = -1 if index is None else index
        at = at if at >= 0 else at + self.turn_count
        if self.history_bytes <= UNCUT_BYTES or not 0 <= at < self.turn_count:
            return None
        chunk = self.chunk_of(at)[0]
        return chunk if len(self.chunks[chunk]) > UNCUT_BYTES and self.counts[chunk] > 1 else None

    def chunk_of(self, index: int) -> tuple[int, int]:
        """The index of the chunk that has an existing turn, and the number of turns before that chunk."""
        before = 0
        for at, turns in enumerate(self.counts):
            if index < before + turns:
                return at, before
            before += turns
        raise AssertionError("turn_count is not that of the chunks")

    def cut_all(self) -> Generator[None]:
        """Cut all chunks that are to be cut, in steps."""
        seen: list[bytes] = []
        while True:
            long = (at for at, chunk in enumerate(self.chunks) if len(chunk) > UNCUT_BYTES and self.counts[at] > 1)
            at = next((at for at in long if not any(self.chunks[at] is each for each in seen)), None)
            if at is None:
                return
            seen.append(self.chunks[at])
            yield from self.cut_at(at)

    def cut_at(self, at: int) -> Generator[None]:
        """Cut the chunk at an index in steps. It is the same document, whatever else is done to it meanwhile."""
        chunk, count = self.chunks[at], self.counts[at]
        pieces = yield from cut_run(chunk, count, FOLD_BYTES)
        if at < len(self.chunks) and self.chunks[at] is chunk:
            texts, counts = [text for text, _ in pieces], [number for _, number in pieces]
            self.chunks = [*self.chunks[:at], *texts, *self.chunks[at + 1 :]]
            self.counts = [*self.counts[:at], *counts, *self.counts[at + 1 :]]

    # -- amending -----------------------------------------------------------------------------------------

    def replace_turn(self, place: Place, turn: bytes) -> None:
        """Replace a turn. The new one gets a chunk of its own, because it may be amended again.

        The text before the parts stays a chunk, too: it may be long, and the next change is usually nearby.
        """
        chunk, end = self.chunks[place.chunk], place.start
        while end and chunk[end - 1] in b" \t\r\n,":
            end -= 1
        before, after = place.parts[: place.at], place.parts[place.at + 1 :]
        pieces = [chunk[:end], b",".join(before), turn, b",".join(after)]
        counts = [self.counts[place.chunk] - len(place.parts), len(before), 1, len(after)]
        kept = [piece for piece in pieces if piece]
        self.history_bytes += sum(map(len, kept)) + len(kept) - 1 - len(chunk)
        self.chunks = [*self.chunks[: place.chunk], *kept, *self.chunks[place.chunk + 1 :]]
        counts = [count for count in counts if count]
        self.counts = [*self.counts[: place.chunk], *counts, *self.counts[place.chunk + 1 :]]
        if len(self.chunks) > MAX_PIECES + 4 * self.history_bytes // FOLD_BYTES:  # amended in very many places
            self.chunks, self.counts = fold_all(self.chunks, self.counts)
        self.lineage = next(_lineages)

    # -- whole --------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Approximate size of the document as JSON, bytes."""
        return len(self.fields) + len(self.metrics.extra) + self.history_bytes + HEAD_REST_BYTES  # as `head_size`

    @property
    def head_size(self) -> int:
        """`Head.size` of the present head."""
        return len(self.fields) + len(self.metrics.extra)

    def head_json(self, updated_us: int) -> bytes:
        """The document without `history`."""
        return b"{%b}" % self._head(updated_us, self.fields)

    def to_json(
        self, updated_us: int, history: list[bytes] | None = None, *, before: bytes = b"", after: bytes = b""
    ) -> bytes:
        """The document as JSON, with the whole history or these chunks of it, and text before and after it."""
        opening = b"%b{%b%b" % (before, self._head(updated_us, self.fields), HISTORY)
        return _joined(opening, self.chunks if history is None else history, END + after)

    def pieces(self, updated_us: int, history: list[bytes] | None) -> list[bytes]:
        """The document as JSON, with these chunks of the history or (None) without `history`, in pieces. None that
        is long is copied."""
        head = [b"{", self.fields, self._head(updated_us, b"")]
        if history is None:
            return [*head, b"}"]
        between = [piece for chunk in history for piece in (chunk, b",")]
        return [*head, HISTORY, *between[:-1], END]

    def for_store(self) -> tuple[bytes, int]:
        """The document in the store's layout (layout.py), and the room for its head."""
        head = b"{%b" % self._head(self.updated_us, self.fields)
        room = room_for(head)
        return _joined(head.ljust(room) + HISTORY, self.chunks, END), room

    def changes_since(self, base: InStore) -> tuple[int, bytes, int, bytes] | None:
        """What turns the store's document into this one: an offset, what its head has from there on, and the same
        of its end, empty if that stays. None if it can't be changed in place."""
        fields = self.fields
        if self.lineage != base.lineage:
            return None
        if fields == base.fields:  # what follows them is sent
            start = len(fields) + 1
            head = self._head(self.updated_us, b"")
        else:
            start = 0
            head = b"{%b" % self._head(self.updated_us, fields)
        room = base.room - start
        if len(head) > room:
            return None
        before = base.history_bytes
        turns = b"" if self.history_bytes == before else self._history_from(before)
        return start, head.ljust(room), base.room + len(HISTORY) + before, turns

    def _history_from(self, offset: int) -> bytes:
        """The end of the document from an offset in the history on, at which a turn ended; reads only the chunks
        after it."""
        chunks, wanted = self.chunks, self.history_bytes - offset
        last = chunks[-1]
        if wanted == len(last) + 1:  # one turn more, as usual
            return b",%b%b" % (last, END)
        size, first = -1, len(chunks)
        if offset:
            wanted -= 1
        while size < wanted:
            first -= 1
            size += len(chunks[first]) + 1
        rest = b",".join(chunks[first:])[size - wanted :]
        return b"%b%b%b" % (b"," if offset else b"", rest, END)

    def _head(self, updated_us: int, fields: bytes) -> bytes:
        text, text_us = self.updated_text
        return b'%b,"updated_at":"%b","status":%b,"metrics":%b' % (
            fields,
            (text if text and updated_us == text_us else format_us(updated_us)).encode(),
            _encode(self.status),
            self.metrics.to_json(),
        )

    @property
    def created_at(self) -> str:
        """The document's `created_at`."""
        head = b"{%b}" % self.fields
        try:
            return _created(head).created_at
        except RecursionError:
            return str(_decode(go_json.raw_members(head)["created_at"]))


def _joined(opening: bytes, chunks: list[bytes], end: bytes) -> bytes:
    """Chunks, comma-joined, between a beginning and an end."""
    if not chunks:
        return opening + end
    first, *others = chunks  # joined at once: each copy of eight megabytes takes milliseconds
    if not others:
        return b"%b%b%b" % (opening, first, end)
    *others, last = others
    return b",".join([opening + first, *others, last + end])
