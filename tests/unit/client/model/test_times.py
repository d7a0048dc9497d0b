from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from callstate_client.model import go_json, times
from callstate_client.model.times import ZERO_TIME, format_time, now, now_text, parse_time


def test_now_is_in_utc() -> None:
    before = datetime.now(UTC)
    assert before <= now() <= datetime.now(UTC)
    assert now().utcoffset() == timedelta(0)


@pytest.mark.parametrize("at_us", [0, 1, 1_999_999, 1_767_323_045_000_000, 1_767_323_045_000_600])
def test_now_as_text_is_what_now_is_written_as(at_us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "time_ns", lambda: at_us * 1000 + 999)
    assert now_text() == format_time(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us))


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC), "2026-01-02T03:04:05.000600Z"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30))), "2026-01-01T21:34:05Z"),
        (datetime(1, 1, 1, tzinfo=UTC), ZERO_TIME),
    ],
)
def test_written_in_utc_with_z(at: datetime, text: str) -> None:
    assert format_time(at) == text
    assert parse_time(text) == at


@pytest.mark.parametrize("offset", [timedelta(hours=2), timedelta(hours=-2)])
def test_an_offset_over_the_edge_of_the_calendar_stays_a_moment(offset: timedelta) -> None:
    at = (datetime.min if offset > timedelta(0) else datetime.max).replace(tzinfo=timezone(offset))
    assert parse_time(format_time(at)) == at


def test_a_time_without_a_timezone_is_refused() -> None:
    with pytest.raises(ValueError, match="timezone"):
        format_time(datetime(2026, 1, 1))


def test_nanoseconds_are_cut_to_microseconds() -> None:
    assert parse_time("2026-01-02T03:04:05.123456789Z") == datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)


@pytest.mark.parametrize("digits", [10, 12, 43])
def test_finer_fractions_are_read_as_go_reads_them(digits: int) -> None:
    text = f"2026-01-02T03:04:05.{'1234567890' * 5:.{digits}}Z"
    assert times.is_time(text)
    assert parse_time(text) == datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-02",
        "2026-01-02 03:04:05Z",
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05z",
        "2026-01-02T03:04:05+0530",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05.+1Z",
        "2026-01-02T03:04:05.\u0661Z",
        "2026-13-02T03:04:05.5Z",
        "2026-02-30T03:04:05.5Z",
        "2026-01-02T03:04:60.5Z",
        "2026-01-02 03:04:05.5Z",
        "2026-13-02T03:04:05Z",
        "2026-02-30T03:04:05Z",
        "2026-01-02T24:04:05Z",
        "2026-01-02T03:04:05Z\n",
    ],
)
def test_times_that_go_does_not_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - datetime's own text for days a month does not have
        parse_time(text)
    assert not times.is_time(text)


def test_times_of_one_second_are_looked_at_once() -> None:
    """Each save has the time of the one before, which is of the present second or one that has just passed."""
    times._is_time.cache_clear()
    for fraction in ("5", "000001", "213758", "123456789"):
        assert times.is_time(f"2026-01-02T03:04:05.{fraction}Z")
    assert times._is_time.cache_info().misses == 1
    assert times.is_time("2026-01-02T03:04:05.5+05:30")
    assert times.is_time("0000-02-29T03:04:05.5Z"), "Go has a year 0"


def test_no_cache_keeps_long_texts() -> None:
    """Clients choose them: 300 refused saves with a megabyte each once stayed in memory for good."""
    times._is_time.cache_clear()
    go_json._cached_fold.cache_clear()
    for number in range(3):
        assert not times.is_time(f"{number}" * 100_000)
        assert go_json.fold(f"N{number}" * 100_000) == f"n{number}" * 100_000
    assert times._is_time.cache_info().currsize == 0
    assert go_json._cached_fold.cache_info().currsize == 0
