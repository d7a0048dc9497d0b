from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from callstate_client.protocol.framing import READ_BYTES, LineBuffer, LineSplitter

Feed = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    yield from (data[i : i + 1] for i in range(len(data)))


def by_three(data: bytes) -> Iterator[bytes]:
    yield from (data[i : i + 3] for i in range(0, len(data), 3))


def split(feed: Feed, data: bytes, limit: int = 10) -> tuple[list[bytes | None], LineSplitter]:
    splitter = LineSplitter(limit)
    return [line for piece in feed(data) for line in splitter.feed(piece)], splitter


@pytest.mark.parametrize("feed", [whole, byte_by_byte, by_three])
@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\n", [b"a"]),
        (b"\n\n", [b"", b""]),
        (b"a\nbc\n", [b"a", b"bc"]),
        (b"123456789\n", [b"123456789"]),
        (b"1234567890\n", [None]),
        (b"1234567890123\nok\n", [None, b"ok"]),
        (b"ok\n1234567890\nok\n", [b"ok", None, b"ok"]),
        (b"a\r\n", [b"a\r"]),
    ],
)
class TestLineSplitter:
    def test_lines(self, feed: Feed, data: bytes, lines: list[bytes | None]) -> None:
        found, splitter = split(feed, data)
        assert found == lines
        assert splitter.pending == 0

    def test_with_data_behind(self, feed: Feed, data: bytes, lines: list[bytes | None]) -> None:
        found, splitter = split(feed, data + b"tail")
        assert found == lines
        assert splitter.pending == 4
        assert splitter.feed(b"\n") == [b"tail"]


@pytest.mark.parametrize("size", [9, 10, 11])
def test_a_line_that_comes_alone_is_held_to_the_limit_like_any_other(size: int) -> None:
    data = b"x" * (size - 1) + b"\n"
    alone, (after_another, _) = LineSplitter(10).feed(data), split(whole, b"\n" + data)
    assert [b"", *alone] == after_another
    assert alone == [data[:-1] if size <= 10 else None]


def test_a_whole_line_ends_the_one_that_had_begun() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"be") == []
    assert splitter.feed(b"gun\n") == [b"begun"]
    assert splitter.feed(b"1234567890") == []  # too long: dropped up to its newline
    assert splitter.feed(b"rest\n") == [None]


def test_a_line_in_tiny_pieces_takes_about_its_own_size() -> None:
    splitter = LineSplitter()
    pieces = [b"%02d" % (number % 100) for number in range(200_000)]
    tracemalloc.start()
    try:
        for piece in pieces:
            splitter.feed(piece)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 1.1 * 400_000
    assert splitter.feed(b"\n") == [b"".join(pieces)]


def test_an_endless_line_takes_no_memory() -> None:
    splitter = LineSplitter(100)
    for _ in range(1000):
        assert splitter.feed(b"x" * 99) == []
        assert splitter.pending < 100
    assert splitter.feed(b"\nok\n") == [None, b"ok"]


def test_a_long_and_a_short_line_in_any_pieces() -> None:
    lines: list[bytes | None] = [b"x" * 3000, b"y", b"", b"z" * 700, b"v" * 5000]
    data = b"".join(line + b"\n" for line in lines if line is not None)
    for size in (1, 499, 501, 3000, 3001, 3002, len(data)):
        splitter = LineSplitter()
        pieces = (data[at : at + size] for at in range(0, len(data), size))
        assert [line for piece in pieces for line in splitter.feed(piece)] == lines
        assert splitter.pending == 0


def read_into(buffer: LineBuffer, data: bytes, most: int) -> list[bytes | None]:
    """As a transport does it: each read overwrites what the one before left."""
    lines: list[bytes | None] = []
    for at in range(0, len(data), most):
        piece = data[at : at + most]
        buffer.view[: len(piece)] = piece
        lines += buffer.cut(len(piece))
    return lines


@pytest.mark.parametrize("most", [1, 7, 499, 501, 3000, 65536, READ_BYTES])
def test_a_buffer_gives_what_a_splitter_gives(most: int) -> None:
    chance = random.Random(most)  # the same each time
    lengths = [chance.choice([0, 1, 20, 499, 500, 501, 4000, 70_000]) for _ in range(12 if most < 400 else 120)]
    lines = [chance.randbytes(length).replace(b"\n", b"x") for length in lengths]
    data = b"".join(line + b"\n" for line in lines)
    buffer = LineBuffer(READ_BYTES)
    assert read_into(buffer, data + b"tail", most) == lines
    assert read_into(buffer, b"\n", most) == [b"tail"]


def test_a_buffer_drops_what_is_too_long_and_goes_on() -> None:
    buffer = LineBuffer(READ_BYTES)
    data = b"a\n%b\n%b\nb\n" % (b"x" * READ_BYTES, b"y" * (READ_BYTES - 1))
    assert read_into(buffer, data, READ_BYTES) == [b"a", None, b"y" * (READ_BYTES - 1), b"b"]


def test_nothing_that_was_given_changes_with_the_next_read() -> None:
    buffer = LineBuffer(READ_BYTES)
    first = read_into(buffer, b"x" * 1000 + b"\nend", READ_BYTES)
    assert read_into(buffer, b"\n" + b"z" * 1000 + b"\n", READ_BYTES) == [b"end", b"z" * 1000]
    assert first == [b"x" * 1000]
