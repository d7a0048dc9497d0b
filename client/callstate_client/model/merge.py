"""JSON Merge Patch (RFC 7396), shared by client and daemon, so that both apply a patch in the same way."""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice
from typing import Any, Final

import msgspec

from callstate_client.model import go_json

MEMBERS_A_STEP: Final = 500
"""Members merged or written in one step: a tenth of a millisecond."""


def merge_patch(target: Any, patch: Any) -> Any:
    """The target with the patch applied: members replace, null removes, objects are patched in turn."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def compose_patches(first: dict[str, Any], then: dict[str, Any]) -> dict[str, Any] | None:
    """One patch with the effect of two in succession; None if there is none.

    A patch can't replace a member by an object, since an object in a patch patches the member.
    """
    both = dict(first)
    for name, value in then.items():
        before = both.get(name)
        if not isinstance(value, dict) or name not in both:
            both[name] = value
        elif not isinstance(before, dict):
            return None
        else:
            inner = compose_patches(before, value)
            if inner is None:
                return None
            both[name] = inner
    return both


def merge_text(target: bytes, patch: Any) -> bytes:
    """As `merge_patch` for a target that is JSON text: values that the patch does not name stay byte for byte.

    Raises:
        ValueError: the target is not JSON.
    """
    if not isinstance(patch, dict):
        return msgspec.json.encode(patch)
    merged = go_json.raw_members(target) if target[:1] == b"{" else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_text(merged.get(name, b"null"), value)
    return go_json.join_members(merged)


def merge_in_steps(target: bytes, patch: Any) -> Generator[None, None, bytes]:
    """As `merge_text`, in steps of MEMBERS_A_STEP members, and one for each object of the target."""
    if not isinstance(patch, dict):
        return msgspec.json.encode(patch)
    merged = go_json.raw_members(target) if target[:1] == b"{" else {}
    for number, (name, value) in enumerate(patch.items()):
        if not number % MEMBERS_A_STEP:
            yield
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = yield from merge_in_steps(merged.get(name, b"null"), value)
        else:
            merged[name] = msgspec.json.encode(value)
    parts: list[bytes] = []
    names = iter(merged.items())
    while some := dict(islice(names, MEMBERS_A_STEP)):
        parts.append(go_json.join_members(some)[1:-1])
        yield
    return b"{%b}" % b",".join(parts)
