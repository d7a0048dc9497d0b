from __future__ import annotations

import msgspec
import pytest

from callstate_client.errors import DocumentError
from callstate_client.model import SessionState
from callstate_client.model.go_json import INT64_MAX
from callstate_client.model.metrics import Responses, SessionMetrics, StrictCounters, metrics_of

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


def test_a_mean_is_exact_however_many_it_is_of() -> None:
    metrics, given = SessionMetrics(), [7 * n % 1000 + 1 for n in range(1000)]
    for response_ms in given:
        metrics.add_response(response_ms)
    assert (metrics.first_response_ms, metrics.average_response_ms) == (given[0], sum(given) // 1000)
    assert metrics.extra == {"response_count": 1000, "response_total_ms": sum(given)}


@pytest.mark.parametrize(
    ("count", "total_ms", "found"),
    [
        (3, 1001, (3, 1001)),
        (3, 5000, (3, 999)),
        (3, None, (3, 999)),
        (None, 999, (1, 333)),
        (-1, 999, (1, 333)),
        ("3", "999", (1, 333)),
        (True, 333, (1, 333)),
    ],
)
def test_a_sum_changed_by_other_software(count: object, total_ms: object, found: tuple[int, int]) -> None:
    responses = Responses(50, 333, count, total_ms)
    assert (responses.count, responses.total_ms) == found


def test_a_sum_stays_where_go_can_read_it() -> None:
    responses = Responses(0, 0, None, None).plus([INT64_MAX, INT64_MAX])
    assert (responses.total_ms, responses.average_ms) == (INT64_MAX, INT64_MAX // 2)
