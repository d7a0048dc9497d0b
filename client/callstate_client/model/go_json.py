"""How Go's encoding/json reads JSON text, where that differs from msgspec.

Go matches the names of members without case and takes the last (`fields.byFoldedName` in encoding/json/decode.go,
`foldRune` in fold.go), has int64 where its types say so, and gives up beyond 10,000 levels (`maxNestingDepth` in
scanner.go). msgspec gives up at Python's recursion limit, about 1,000; a text that is nested deeper is decoded and
encoded here without recursion, which is slower and done only after msgspec has failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1
Int64 = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
"""Go's int64 and int: the type of each number in the package's types."""

GO_DEPTH: Final = 10_000
"""Deepest nesting that Go's encoding/json reads, the document itself being the first level."""

_decode = msgspec.json.decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

_STRING: Final = rb'"(?:[^"\\\x00-\x1f]|\\.)*+"'
_TOKEN: Final = re.compile(rb"[ \t\n\r]*+(" + _STRING + rb"|[\[\]{}:,]|[^ \t\n\r\[\]{}:,\"]++)", re.DOTALL)
_MARK: Final = re.compile(_STRING + rb"|[\[\]{}:,]", re.DOTALL)
_SPACE: Final = b" \t\n\r"
_ESCAPED: Final = re.compile("[\udc80-\udcff]")


CACHED_CHARS: Final = 64
"""Longer names are rare, and a cache must not keep what clients send at any length."""


def fold(name: str) -> str:
    """A form that is equal for names that Go considers the same. Besides the case of letters, only the long s and
    the Kelvin sign are folded into ASCII; `str.lower` folds the latter."""
    return _cached_fold(name) if len(name) <= CACHED_CHARS else _fold(name)


def _fold(name: str) -> str:
    return name.replace("\u017f", "s").lower()


_cached_fold = lru_cache(maxsize=1024)(_fold)


def coerced(text: str) -> str:
    """A text as Go's encoding/json writes it: Go strings need not be UTF-8, and each invalid byte becomes U+FFFD.

    Args:
        text: decoded with `surrogateescape`.
    """
    return _ESCAPED.sub("\ufffd", text)


class _Nesting:
    """The open containers while a text is decoded, innermost last, and the names of their open members."""

    def __init__(self) -> None:
        self.open: list[Any] = []
        self.names: list[str] = []
        self.done: list[Any] = []
        """The outermost value, once it is complete."""

    def put(self, value: Any) -> None:
        """Add a complete value to the innermost container."""
        if not self.open:
            self.done.append(value)
        elif isinstance(self.open[-1], list):
            self.open[-1].append(value)
        else:
            self.open[-1][self.names.pop()] = value

    def enter(self, container: Any) -> None:
        """Open a container."""
        if len(self.open) >= GO_DEPTH:
            raise ValueError(f"nested deeper than {GO_DEPTH}")
        self.open.append(container)

    def leave(self, kind: type) -> None:
        """Close the innermost container, which must be of this type."""
        if not self.open or type(self.open[-1]) is not kind:
            raise ValueError("a closing bracket without an opening one")
        self.put(self.open.pop())


def decode(text: bytes) -> Any:
    """The value of a JSON text of any depth that Go reads.

    Raises:
        ValueError: it is not JSON, not UTF-8, has a lone surrogate or a number out of range, or is nested deeper
            than GO_DEPTH.
    """
    nesting = _Nesting()
    wants = "value"
    try:
        for token in _tokens(text):
            wants = _step(nesting, wants, token)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    if wants != "end":
        raise ValueError("the text ends too early")
    return nesting.done[0]


def decode_any(text: bytes) -> Any:
    """Like `decode`, but by msgspec unless the text is nested too deeply for it."""
    try:
        return _decode(text)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        return decode(text)


def _tokens(text: bytes) -> Iterator[bytes]:
    text.decode()  # invalid UTF-8 is a ValueError too
    text = text.rstrip(_SPACE)
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"not JSON at byte {at}")
        at = found.end()
        yield found[1]


def _step(nesting: _Nesting, wants: str, token: bytes) -> str:
    """Handle one token of the grammar of RFC 8259; returns what may follow it."""
    if wants == "name" or (wants == "name or }" and token != b"}"):
        if token[:1] != b'"':
            raise ValueError("a member without a name")
        nesting.names.append(_decode(token))
        return "colon"
    if wants == "colon":
        if token != b":":
            raise ValueError("a name without a colon")
        return "value"
    if wants.startswith("value") and token not in (b"]", b"}", b":", b","):
        if token == b"[":
            nesting.enter([])
            return "value or ]"
        if token == b"{":
            nesting.enter({})
            return "name or }"
        nesting.put(_decode(token))
    elif token == b"," and wants == "comma":
        return "value" if isinstance(nesting.open[-1], list) else "name"
    elif token == b"]" and wants in ("comma", "value or ]"):
        nesting.leave(list)
    elif token == b"}" and wants in ("comma", "name or }"):
        nesting.leave(dict)
    else:
        raise ValueError(f"unexpected {token[:20].decode('utf-8', 'replace')}")
    return "comma" if nesting.open else "end"


def encode(value: Any) -> bytes:
    """JSON of a value of any depth that Go reads.

    Raises:
        ValueError: it is nested deeper, or contains itself.
        TypeError, msgspec.MsgspecError: a part of it can't be written as JSON.
    """
    parts: list[bytes] = []
    todo: list[Iterator[tuple[bytes, Any]]] = [iter([(b"", value)])]
    ends: list[bytes] = [b""]
    while todo:
        for before, node in todo[-1]:
            parts.append(before)
            if isinstance(node, dict):
                parts.append(b"{")
                todo.append(_written_members(node))
                ends.append(b"}")
            elif isinstance(node, list | tuple):
                parts.append(b"[")
                todo.append((b"," if index else b"", each) for index, each in enumerate(node))
                ends.append(b"]")
            else:
                parts.append(_encode(node))
                continue
            if len(todo) > GO_DEPTH + 1:
                raise ValueError(f"nested deeper than {GO_DEPTH}")
            break
        else:
            todo.pop()
            parts.append(ends.pop())
    return b"".join(parts)


def _written_members(members: dict[Any, Any]) -> Iterator[tuple[bytes, Any]]:
    for index, (name, value) in enumerate(members.items()):
        written = _encode({name: 0})[1:-2]  # by way of an object, as the encoder writes names that are not strings
        yield (b"," if index else b"") + written, value


def split(text: bytes) -> list[bytes]:
    """The elements of a JSON array, or the members of an object as `"name":value`, as bytes of the text.

    Args:
        text: valid JSON.
    """
    text = text.strip(_SPACE)
    parts: list[bytes] = []
    depth, start = 0, 1
    for found in _MARK.finditer(text):
        mark = found[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
        if (depth == 1 and mark == b",") or not depth:
            parts.append(text[start : found.start()].strip(_SPACE))
            start = found.end()
    return [part for part in parts if part]


def members(text: bytes) -> list[tuple[str, bytes]]:
    """The members of a JSON object in order, repeated ones too; names decoded, values as bytes of the text.

    Args:
        text: valid JSON.

    Raises:
        ValueError: it is not an object.
    """
    if text.lstrip(_SPACE)[:1] != b"{":
        raise ValueError("Expected `object`")
    found: list[tuple[str, bytes]] = []
    for part in split(text):
        name = _MARK.match(part)
        assert name is not None  # noqa: S101 - a member begins with its name
        found.append((_decode(name[0]), part[name.end() :].lstrip(_SPACE)[1:].lstrip(_SPACE)))
    return found


def raw_members(text: bytes) -> dict[str, bytes]:
    """The members of a JSON object, values as bytes of the text; of repeated names the last.

    Raises:
        ValueError: it is not an object.
    """
    try:
        return {name: bytes(value) for name, value in _decode_members(text).items()}
    except RecursionError:
        return dict(members(text))
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def raw_list(text: bytes) -> list[bytes]:
    """The elements of a valid JSON array, as bytes of the text."""
    try:
        return [bytes(part) for part in _decode_list(text)]
    except RecursionError:
        return split(text)


def join_members(named: Mapping[str, bytes]) -> bytes:
    """A JSON object with these members."""
    return _encode({name: Raw(value) for name, value in named.items()})
