"""Limits that depend on how much memory there is."""

from __future__ import annotations

from callstate_sidecar.config.memory_limits import differing, resolve_limits
from callstate_sidecar.config.origins import Origin
from callstate_sidecar.config.schema import GIB, MIB, LimitsConfig


def test_defaults_are_shares_of_the_memory() -> None:
    limits = resolve_limits(LimitsConfig(), {}, GIB)
    assert limits.hot_bytes == 2 * GIB // 5
    assert limits.reply_bytes_total == 128 * MIB
    assert resolve_limits(LimitsConfig(), {}, 64 * GIB).reply_bytes_total == 256 * MIB
    shown = differing(LimitsConfig(), limits)
    assert shown == {"limits.hot_bytes": str(2 * GIB // 5), "limits.reply_bytes_total": str(128 * MIB)}


def test_what_is_configured_stays() -> None:
    given = LimitsConfig(hot_bytes=GIB, reply_bytes_total=256 * MIB)
    origins = {"limits.reply_bytes_total": Origin("flag", "--set"), "limits.hot_bytes": Origin("flag", "--set")}
    assert resolve_limits(given, origins, GIB) == given
    assert differing(given, given) == {}


def test_in_what_a_client_can_fill_there_is_room_for_the_rest() -> None:
    limits = resolve_limits(LimitsConfig(), {}, GIB)
    filled = limits.hot_bytes * 5 / 4 + 2 * limits.reply_bytes_total
    assert filled * 1.1 < GIB - 90 * MIB


def test_without_knowledge_of_the_memory_there_is_no_bound() -> None:
    assert resolve_limits(LimitsConfig(), {}, 0) == LimitsConfig()
