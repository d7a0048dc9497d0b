from __future__ import annotations

import msgspec
import pytest

from callstate_client.errors import DocumentError
from callstate_client.model import SessionState
from callstate_client.model.metrics import SessionMetrics, StrictCounters, metrics_of

COUNTS = {
    "turn_count": 1,
    "interruption_count": 2,
    "user_speech_duration_ms": 3,
    "agent_speech_duration_ms": 4,
    "first_response_ms": 5,
    "average_response_ms": 6,
}


def read(metrics: object) -> SessionMetrics:
    return SessionState.from_json(msgspec.json.encode({"metrics": metrics})).metrics


def test_typed_and_untyped_are_read_alike() -> None:
    typed = msgspec.convert(COUNTS, StrictCounters)
    assert metrics_of(typed) == read(COUNTS) == SessionMetrics(**COUNTS)
    assert metrics_of(typed).to_dict() == COUNTS


def test_unknown_members_are_extra() -> None:
    assert read(COUNTS | {"mos": 4.1}) == SessionMetrics(**COUNTS, extra={"mos": 4.1})


def test_none_are_all_zero() -> None:
    assert metrics_of(None) == read({}) == read(None) == SessionMetrics()
    assert metrics_of(None).extra is not metrics_of(None).extra


def test_a_wrong_one_says_where() -> None:
    with pytest.raises(DocumentError, match=r"\$\.metrics\.turn_count"):
        read({"turn_count": "1"})
