"""Mutations of text at its tokens.

libFuzzer mutates bytes and is guided by the branches of Python code, but the parsers are in C, where it sees
none: nearly everything it makes of a JSON text is refused at the same place. So half of the mutations are of whole
tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final

_TOKEN: Final = re.compile(rb'"(?:[^"\\\n]|\\.)*"|[\w.+-]+|\s+|.', re.DOTALL)
_MOST_NESTED: Final = 80

VALUES: Final = (
    b"null", b"true", b"false", b"0", b"-0", b"1.0", b"1e2", b"-1", b"9223372036854775807", b"9223372036854775808",
    b"-9223372036854775808", b"1e400", b"1" * 30, b"1" * 5000, b"01", b"NaN", b"Infinity", b'""', b"{}", b"[]",
    b"[0]", b'{"":0}', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\u0000"', b'"\\/"', b'"\xc3\xa9"', b'"\xff"',
    b'"\xc5\xbf"', b'"2026-01-01T00:00:00Z"', b'"2026-01-01T00:00:00.123456789+05:30"', b'"0000-01-01T00:00:00Z"',
    b"\xef\xbb\xbf",
)  # fmt: skip


def mutate_tokens(data: bytes, tokens: tuple[bytes, ...], dice: random.Random) -> bytes:
    """The text with one to three changes.

    Args:
        data: the text.
        tokens: of the target's dictionary.
        dice: decides.
    """
    parts = _TOKEN.findall(data) or [b""]
    for _ in range(dice.choice((1, 1, 2, 3))):
        change = dice.choice(_CHANGES)
        change(parts, dice.randrange(len(parts)), tokens or VALUES, dice)
        parts = parts or [b""]
    return b"".join(parts)


def _replace(parts: list[bytes], at: int, tokens: tuple[bytes, ...], dice: random.Random) -> None:
    parts[at] = dice.choice(dice.choice((VALUES, tokens)))


def _insert(parts: list[bytes], at: int, tokens: tuple[bytes, ...], dice: random.Random) -> None:
    parts.insert(at, dice.choice((*VALUES, *tokens, b" ", b",", b"\t", b":", b"\r")))


def _delete(parts: list[bytes], at: int, tokens: tuple[bytes, ...], dice: random.Random) -> None:
    del parts[at : at + dice.choice((1, 1, 2, 4))]


def _repeat(parts: list[bytes], at: int, tokens: tuple[bytes, ...], dice: random.Random) -> None:
    """Copy some tokens to another place: members that occur twice, in other places, in other lines."""
    some = parts[at : at + dice.choice((1, 3, 4, 8, 30))]
    to = dice.randrange(len(parts) + 1)
    parts[to:to] = some


def _nest(parts: list[bytes], at: int, tokens: tuple[bytes, ...], dice: random.Random) -> None:
    depth = dice.choice((1, 2, 60, 61, 62, 63, 64, _MOST_NESTED))
    before, after = dice.choice(((b"[", b"]"), (b'{"a":', b"}")))
    parts[at] = before * depth + (parts[at].strip() or b"0") + after * depth


def _respell(parts: list[bytes], at: int, tokens: tuple[bytes, ...], dice: random.Random) -> None:
    """Write a token in another case, or one of its characters as an escape."""
    text = parts[at]
    place = dice.randrange(1, len(text)) if len(text) > 1 else 0
    if dice.random() < 0.3:
        parts[at] = text.swapcase()
    elif text[:1] == b'"' and text[place : place + 1].isalnum():
        parts[at] = b"%b\\u%04x%b" % (text[:place], text[place], text[place + 1 :])


_CHANGES: Final[tuple[Callable[[list[bytes], int, tuple[bytes, ...], random.Random], None], ...]] = (
    _replace, _replace, _insert, _delete, _repeat, _nest, _respell,
)  # fmt: skip
