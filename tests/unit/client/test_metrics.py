from __future__ import annotations

import msgspec
import pytest

from callstate_client.errors import DocumentError
from callstate_client.metrics import SessionMetrics, StrictMetricsWire, metrics_of

COUNTS = {
    "turn_count": 1,
    "interruption_count": 2,
    "user_speech_duration_ms": 3,
    "agent_speech_duration_ms": 4,
    "first_response_ms": 5,
    "average_response_ms": 6,
}


def test_typed_or_not_they_are_the_same() -> None:
    typed = msgspec.convert(COUNTS, StrictMetricsWire)
    assert metrics_of(typed) == metrics_of(dict(COUNTS)) == SessionMetrics(**COUNTS)
    assert metrics_of(typed).to_dict() == COUNTS


def test_what_we_do_not_know_is_kept() -> None:
    assert metrics_of(COUNTS | {"mos": 4.1}) == SessionMetrics(**COUNTS, extra={"mos": 4.1})


def test_none_are_zero() -> None:
    assert metrics_of(None) == metrics_of({}) == SessionMetrics()
    assert metrics_of(None).extra is not metrics_of(None).extra


def test_what_is_no_count_is_named_by_its_place() -> None:
    with pytest.raises(DocumentError, match=r"at `\$\.metrics\.turn_count`"):
        metrics_of({"turn_count": "1"})
