"""The envelope of a request: which lines are requests, and what is decoded of them.

Input: a line. What is accepted has the values that the standard json module finds; what is refused as a parse
error, that module refuses too, or a documented limit says why.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw, Struct, structs

from callstate_client.engine.request import NULL_ID, BadRequest, DecodedRequest, read_request
from callstate_client.errors import ParseError
from fuzz import reference


def check(data: bytes) -> None:
    """Decode one line."""
    line = data.replace(b"\n", b" ")
    try:
        request = read_request(line)
    except BadRequest as refused:
        _check_refusal(line, refused)
        return
    if request is None:
        assert not line.strip(), "a line that says something is answered"
        return
    try:
        value = reference.read(line)
    except reference.TooDeep:
        return
    _check_request(request, value)


def _check_refusal(line: bytes, refused: BadRequest) -> None:
    try:
        value = reference.read(line)
    except (reference.NotJson, reference.TooDeep):
        return
    if isinstance(refused.error, ParseError):
        assert not reference.passes_limits(line), f"JSON, refused as {refused.error}"
    elif isinstance(value, dict) and refused.request_id not in (None, NULL_ID):
        assert reference.canonical(reference.read(refused.request_id or b"")) == reference.canonical(value["id"])


def _check_request(request: DecodedRequest, value: Any) -> None:
    assert isinstance(value, dict)
    assert value["jsonrpc"] == "2.0"
    assert value["method"] == request.verb.method
    if request.request_id is None:
        assert "id" not in value
    else:
        assert reference.canonical(reference.read(request.request_id)) == reference.canonical(value["id"])
    _check_equal(request.params, value.get("params", {}), "params")


def _check_equal(ours: Any, value: Any, path: str) -> None:
    """Check that a decoded member has the value that the line gives it."""
    if isinstance(ours, Raw):
        try:
            read = reference.read(bytes(ours))
        except reference.NotJson:
            raise AssertionError(f"{path} is no JSON, and the line is") from None
        assert reference.canonical(read) == reference.canonical(value), path
    elif isinstance(ours, Struct):
        assert isinstance(value, dict), path
        fields = {field.encode_name: getattr(ours, field.name) for field in structs.fields(ours)}
        for name, member in value.items():
            assert name in fields, f"{path}.{name} is ignored"
            _check_equal(fields[name], member, f"{path}.{name}")
        for field in structs.fields(ours):
            if field.encode_name not in value:
                assert getattr(ours, field.name) in (field.default, UNSET), (
                    f"{path}.{field.name} comes from nowhere"
                )
    elif isinstance(ours, float):
        assert ours == value, path
    else:
        assert reference.canonical(ours) == reference.canonical(value), path
