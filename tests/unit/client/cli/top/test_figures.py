"""Rates and curves of `callstate top`: computed from counters, over the time that is passed in."""

from __future__ import annotations

import pytest

from callstate_client.cli.top.figures import HISTORY, Figures
from callstate_client.cli.top.sparkline import sparkline
from callstate_client.cli.top.view import size_text


def stats(turns: int = 0, beats: int = 0, **more: object) -> dict[str, object]:
    requests = {"session.add_turn": turns, "session.heartbeat": beats, "server.stats": 1000, "session.list": 50}
    return {"requests": requests, "loop_lag_s": 0.002, "oldest_dirty_s": 1.5, **more}


def test_rates_are_what_counters_grew_by_in_the_time_between() -> None:
    figures = Figures()
    figures.observe(stats(10, 5), 100.0, 0.001)
    assert figures.latest("turns") is None, "the first look has nothing to compare with"
    figures.observe(stats(30, 15), 102.0, 0.003)
    assert figures.latest("turns") == 10
    assert figures.latest("requests") == 15, "what only looks does not count"
    assert figures.latest("round_trip_ms") == pytest.approx(3)
    assert figures.latest("loop_lag_ms") == pytest.approx(2)
    assert [*figures.curves["oldest_dirty_s"]] == [1.5, 1.5]


def test_a_restarted_daemon_has_no_rate_at_first() -> None:
    figures = Figures()
    figures.observe(stats(100), 1.0, 0.0)
    figures.observe(stats(5), 2.0, 0.0)
    assert figures.latest("turns") is None
    figures.observe(stats(7), 3.0, 0.0)
    assert figures.latest("turns") == 2


def test_no_rate_over_the_time_without_an_answer() -> None:
    figures = Figures()
    figures.observe(stats(1), 1.0, 0.0)
    figures.interrupted()
    figures.observe(stats(100), 50.0, 0.0)
    assert figures.latest("turns") is None


def test_curves_have_an_end() -> None:
    figures = Figures()
    for second in range(HISTORY + 50):
        figures.observe(stats(second), float(second), second / 1000)
    assert len(figures.curves["round_trip_ms"]) == HISTORY
    assert figures.latest("round_trip_ms") == HISTORY + 49


def test_counts() -> None:
    figures = Figures()
    assert (figures.not_ended, figures.ended, figures.count("suspects"), figures.reasons("reaped_by_reason")) == (
        0, 0, 0, [],
    )  # fmt: skip
    by_reason = {"worker_exited": 2, "heartbeat_timeout": 9, "poisoned": 2}
    figures.observe(
        stats(sessions={"active": 3, "on_hold": 1, "ended": 7}, suspects=2, reaped_by_reason=by_reason), 1.0, 0.0
    )
    assert (figures.not_ended, figures.ended, figures.count("suspects")) == (4, 7, 2)
    assert figures.reasons("reaped_by_reason") == [("heartbeat_timeout", 9), ("poisoned", 2), ("worker_exited", 2)]


@pytest.mark.parametrize(
    ("points", "bars"),
    [
        ([], "    "),
        ([0, 0], "  ▁▁"),
        ([0, 5, 10], " ▁▅█"),
        ([9, 1, 2, 3, 4], "▃▅▇█"),
        ([0.001], "   █"),
    ],
)
def test_sparklines(points: list[float], bars: str) -> None:
    assert sparkline(points, 4) == bars


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (5_600_000, "5.6 MB"), (7e12, "7e+03 GB")],
)
def test_sizes(size_bytes: float, text: str) -> None:
    assert size_text(int(size_bytes)) == text
