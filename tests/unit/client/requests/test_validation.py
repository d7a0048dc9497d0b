from __future__ import annotations

from typing import Any

import pytest

from callstate_client.errors import InvalidParamsError
from callstate_client.requests.validation import (
    check_session_id,
    checked_labels,
    checked_seconds,
)


class Name(str):
    """A text of a type of its own, as of an enum."""


@pytest.mark.parametrize("bad", ["", "a b", "@a", "active", "a\n", "x" * 257, None, 7, ["a"], b"a"])
def test_invalid_session_ids(bad: Any) -> None:
    for _ in range(2):  # known to be bad the second time
        with pytest.raises(InvalidParamsError):
            check_session_id(bad)
    check_session_id("a")


class Number(float):
    """A number of a type of its own, as numpy's."""


def test_labels_and_timeouts_are_sent_as_what_json_has() -> None:
    labels = checked_labels({Name("app"): Name("sales")})
    assert {type(text) for text in (*labels, *labels.values())} == {str}
    assert labels == {"app": "sales"}
    assert type(checked_seconds(Number(1.5), "$.params.max_duration_s", 10)) is float
    for labels in ({"\ud800": ""}, {"a": "\udfff"}):
        with pytest.raises(InvalidParamsError, match=r"without lone surrogates at \$\.params\.labels"):
            checked_labels(labels)
