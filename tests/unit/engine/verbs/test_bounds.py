"""Bounds of what a request may carry: each string, list and map in the params of each verb has one.

The types of the params are walked, so a new member without a bound fails here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec import inspect

from callstate_client.engine.request import BadRequest, read_request
from callstate_client.engine.sessions.validation.heads import IncomingHead
from callstate_client.engine.sessions.validation.turns import IncomingTurn
from callstate_client.engine.verbs.table import VERBS
from callstate_client.errors import InvalidParamsError, ParseError, WireError
from callstate_client.protocol.ids import MAX_TEXT_BYTES
from support.core import Core

LONG = "x" * 300_000
MANY = 120_000

STRUCTS = {
    ("session.save", "session"): IncomingHead,
    ("session.add_turn", "turn"): IncomingTurn,
    ("session.add_turn", "turns"): list[IncomingTurn],
    ("session.amend_turn", "set"): IncomingTurn,
    ("session.update", "set"): IncomingHead,
}
"""The types of members that stay bytes until the verb looks at them."""

UNBOUNDED = {
    ".content": "what was said; a line and limits.session_bytes bound it",
    ".response_ms": "any value, as an unknown member",
    ".recovery_data": "limits.head_bytes, and HEAD_PARTS",
    ".metrics": "METRICS_BYTES (test_head_patch.py)",
    ".history": "turns, as of add_turn",
    "session.heartbeat $.params.session_ids[]": "what is not an id is missing; it is not kept",
    "session.end $.params.detail": "MAX_DETAIL_BYTES, below",
}
"""Why some have no bound of their own here, by the end of their place."""

REQUIRED: dict[str, Any] = {
    "session_id": "a", "worker_id": "w1", "on": True, "epoch": 0, "set": {}, "session": {"id": "a"}, "stream": "s",
    "seq": 0,
}  # fmt: skip


class Place(NamedTuple):
    """A member of the params of a verb, or something in it."""

    method: str
    keys: tuple[str | int, ...]
    """`""` for a value of a map, `*` for a name of one, 0 for an item of a list."""
    kind: str

    @property
    def path(self) -> str:
        return "$.params" + "".join("[]" if key == 0 else f".{key}" if key else "" for key in self.keys)

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.kind}"


def walk(method: str, kind: inspect.Type, keys: tuple[str | int, ...] = ()) -> Iterator[Place]:
    """All strings, lists and maps in a type."""
    match kind:
        case inspect.Metadata():
            yield from walk(method, kind.type, keys)
        case inspect.UnionType():
            for each in kind.types:
                yield from walk(method, each, keys)
        case inspect.StrType():
            yield Place(method, keys, "str")
        case inspect.RawType() | inspect.AnyType():
            named = STRUCTS.get((method, str(keys[0])))
            if named is None or len(keys) > 1:
                yield Place(method, keys, "any")
            else:
                yield from walk(method, inspect.type_info(named), keys)
        case inspect.ListType():
            yield Place(method, keys, "list")
            yield from walk(method, kind.item_type, (*keys, 0))
        case inspect.DictType():
            yield Place(method, keys, "dict")
            yield Place(method, (*keys, "*"), "str")
            yield from walk(method, kind.value_type, (*keys, ""))
        case inspect.StructType():
            for field in kind.fields:
                yield from walk(method, field.type, (*keys, field.encode_name))


def has_own_bound(place: Place) -> bool:
    where = f"{place.method} {place.path}"
    return not any(where == end or (end[0] == "." and where.endswith(end)) for end in UNBOUNDED)


PLACES = [
    place
    for method, verb in VERBS.items()
    for place in walk(method, inspect.type_info(verb.usual.__mro__[1] if method == "session.save" else verb.usual))
    if has_own_bound(place)
]


def too_much(place: Place) -> dict[str, Any]:
    """Params of the verb that are as they should be, but for this member."""
    value: Any = {"str": LONG, "list": ["x"] * MANY, "dict": dict.fromkeys(map(str, range(100)), "x"), "any": LONG}[
        place.kind
    ]
    for key in reversed(place.keys):
        if key == 0:
            value = [value]
        elif key == "*":
            value = {value: "x"}
        elif key == "":
            value = {"x": value}
        else:
            value = {key: value}
    params = {
        field.encode_name: REQUIRED[field.encode_name]
        for field in msgspec.structs.fields(VERBS[place.method].usual)
        if field.required
    }
    for name, given in value.items():
        inner = params.get(name)
        params[name] = inner | given if isinstance(inner, dict) and isinstance(given, dict) else given
    if place.method == "session.add_turn" and not {"turn", "turns"} & params.keys():
        params["turn"] = {}
    if "since" in params:
        params["since"] = {"stream": "s", "seq": 0} | params["since"]
    return params


def test_the_walk_finds_strings_lists_and_maps() -> None:
    found = {str(place) for place in PLACES}
    assert {
        "session.save $.params.session.call_id str",
        "session.save $.params.labels dict",
        "session.save $.params.labels.* str",
        "session.update $.params.set.from str",
        "session.add_turn $.params.turns[].role str",
        "events.subscribe $.params.since.stream str",
        "events.subscribe $.params.types[] str",
        "server.flush $.params.session_ids list",
    } <= found
    assert len(found) > 70


@pytest.mark.parametrize("place", PLACES, ids=str)
async def test_a_member_beyond_its_bound_is_refused_by_name(core: Core, place: Place) -> None:
    await core.save("a", session={"history": [{"content": "x"}]})
    with pytest.raises(InvalidParamsError) as caught:
        await core.call(place.method, **too_much(place))
    error = caught.value
    begin, *_ = place.path.replace("[]", "[").split(".*")
    assert error.path is not None
    assert error.path.replace("0]", "").startswith(begin.removesuffix("[")), error.path
    assert error.data["expected"]
    assert len(error.message) < 1000 or "*" in place.keys


@pytest.mark.parametrize("name", ["call_id", "from", "to"])
async def test_an_address_has_at_most_so_many_bytes(core: Core, name: str) -> None:
    for longest in ("x" * MAX_TEXT_BYTES, "é" * (MAX_TEXT_BYTES // 2)):
        await core.save("a", session={name: longest})
        await core.call("session.update", session_id="a", set={name: longest})
        for method, params in (
            ("session.save", {"session": {"id": "a", name: longest + "x"}}),
            ("session.update", {"session_id": "a", "set": {name: longest + "x"}}),
        ):
            with pytest.raises(InvalidParamsError, match=str(MAX_TEXT_BYTES)) as caught:
                await core.call(method, **params)
            assert str(caught.value.path).endswith(f".{name}")


def refusal(**request: Any) -> tuple[bytes | None, WireError]:
    with pytest.raises(BadRequest) as caught:
        read_request(msgspec.json.encode({"jsonrpc": "2.0", "method": "server.ping", **request}))
    return caught.value.request_id, caught.value.error


def test_the_id_of_a_request_has_a_bound() -> None:
    longest = "i" * MAX_TEXT_BYTES
    assert read_request(msgspec.json.encode({"jsonrpc": "2.0", "method": "server.ping", "id": longest})) is not None
    request_id, error = refusal(id=longest + "i")
    assert request_id == b"null"
    assert error.kind == "invalid_request"
    assert "$.id" in error.message
    assert str(MAX_TEXT_BYTES) in error.message


async def test_a_detail_has_a_bound(core: Core) -> None:
    await core.save("a")
    with pytest.raises((InvalidParamsError, ParseError), match="1024"):
        await core.call("session.end", session_id="a", detail=LONG)
