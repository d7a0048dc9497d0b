"""What Go's encoding/json makes of a JSON text, where a decoder of ours would see it otherwise. No I/O.

Go matches the names of members without case and takes the last (`fields.byFoldedName` in encoding/json/decode.go,
`foldRune` in fold.go), has int64 where its types say so, and gives up beyond 10,000 levels (`maxNestingDepth` in
scanner.go). msgspec gives up at Python's recursion limit, about 1,000; so what nests deeper is walked here without
recursion: slower, and only when the decoder gave up.
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
"""Go's int64, and its int: each number that the package's types have."""

GO_DEPTH: Final = 10_000
"""Arrays and objects within each other that Go's encoding/json reads; the document itself is the first."""

_decode = msgspec.json.decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

_STRING: Final = rb'"(?:[^"\\\x00-\x1f]|\\.)*+"'
_TOKEN: Final = re.compile(rb"[ \t\n\r]*+(" + _STRING + rb"|[\[\]{}:,]|[^ \t\n\r\[\]{}:,\"]++)", re.DOTALL)
_MARK: Final = re.compile(_STRING + rb"|[\[\]{}:,]", re.DOTALL)
_SPACE: Final = b" \t\n\r"
_ESCAPED: Final = re.compile("[\udc80-\udcff]")


@lru_cache(maxsize=1024)
def fold(name: str) -> str:
    """Equal for two names that Go takes for the same. Beside letters' case, only the long s and the Kelvin sign are
    folded into ASCII (`str.lower` knows the latter)."""
    return name.replace("\u017f", "s").lower()


def coerced(text: str) -> str:
    """A text as Go's encoding/json writes it, whose strings need not be UTF-8: each byte that is not is U+FFFD.

    Args:
        text: decoded with `surrogateescape`.
    """
    return _ESCAPED.sub("\ufffd", text)


class _Nesting:
    """What is open while a text is walked: the containers, innermost last, and the names their members have."""

    def __init__(self) -> None:
        self.open: list[Any] = []
        self.names: list[str] = []
        self.done: list[Any] = []
        """The outermost value, once it is complete."""

    def put(self, value: Any) -> None:
        """A value is complete: it goes where it belongs."""
        if not self.open:
            self.done.append(value)
        elif isinstance(self.open[-1], list):
            self.open[-1].append(value)
        else:
            self.open[-1][self.names.pop()] = value

    def enter(self, container: Any) -> None:
        """A container begins."""
        if len(self.open) >= GO_DEPTH:
            raise ValueError(f"nested deeper than {GO_DEPTH}")
        self.open.append(container)

    def leave(self, kind: type) -> None:
        """The innermost container ends."""
        if not self.open or type(self.open[-1]) is not kind:
            raise ValueError("a bracket closes what is not open")
        self.put(self.open.pop())


def decode(text: bytes) -> Any:
    """The value of a JSON text of any depth that Go reads.

    Raises:
        ValueError: it is none: not JSON, not UTF-8, a lone surrogate, a number out of range, nested deeper than
            GO_DEPTH.
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
    """The same, quickly where it is not deep."""
    try:
        return _decode(text)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        return decode(text)


def _tokens(text: bytes) -> Iterator[bytes]:
    text.decode()  # bad UTF-8 is a ValueError too
    text = text.rstrip(_SPACE)
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"not JSON at byte {at}")
        at = found.end()
        yield found[1]


def _step(nesting: _Nesting, wants: str, token: bytes) -> str:
    """Take one token; gives what may come next (RFC 8259)."""
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
        ValueError: it is nested deeper, or holds itself.
        TypeError, msgspec.MsgspecError: something in it is not JSON's.
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
        written = _encode({name: 0})[1:-2]  # as the encoder writes a name that is no string
        yield (b"," if index else b"") + written, value


def split(text: bytes) -> list[bytes]:
    """The elements of a JSON array, or the members of an object as `"name":value`, each as it is written.

    Args:
        text: JSON, known to be good.
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
    """The members of a JSON object, names decoded, values as they are written, in order, repeated names too.

    Args:
        text: JSON, known to be good.

    Raises:
        ValueError: it is no object.
    """
    if text.lstrip(_SPACE)[:1] != b"{":
        raise ValueError("Expected `object`")
    found: list[tuple[str, bytes]] = []
    for part in split(text):
        name = _MARK.match(part)
        assert name is not None  # noqa: S101 - good JSON has a name first
        found.append((_decode(name[0]), part[name.end() :].lstrip(_SPACE)[1:].lstrip(_SPACE)))
    return found


def raw_members(text: bytes) -> dict[str, bytes]:
    """The members of a JSON object, values as they are written; of a repeated name the last.

    Raises:
        ValueError: it is no object.
    """
    try:
        return {name: bytes(value) for name, value in _decode_members(text).items()}
    except RecursionError:
        return dict(members(text))
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error


def raw_list(text: bytes) -> list[bytes]:
    """The elements of a JSON array, known to be good, as they are written."""
    try:
        return [bytes(part) for part in _decode_list(text)]
    except RecursionError:
        return split(text)


def join_members(named: Mapping[str, bytes]) -> bytes:
    """The JSON object of these members."""
    return b"{%b}" % b",".join(b"%b:%b" % (_encode(name), value) for name, value in named.items())
