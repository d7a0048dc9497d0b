from __future__ import annotations

import pytest

from callstate_client.protocol.ids import is_session_id


@pytest.mark.parametrize(
    "good", ["a", "CA0123-9", "x" * 256, "active2", "Active", "a@b", "!", "~", "|", "call:1/2"]
)
def test_taken(good: str) -> None:
    assert is_session_id(good)


@pytest.mark.parametrize(
    "bad", ["", "x" * 257, "a b", "a\tb", "a\n", "\n", "{a}", "a}", "@a", "active", "ü", "a\x7f", "a\0"]
)
def test_refused(bad: str) -> None:
    assert not is_session_id(bad)
