"""Limits that depend on how much memory there is: what `limits.hot_bytes = 0` stands for, and smaller defaults.

In a cgroup of 1 GiB the parts that clients can fill, and the rest:

    410 MiB     limits.hot_bytes: two fifths; sessions grow beyond it by a quarter at most, to 512 MiB
    128 MiB     limits.reply_bytes_total, for unread replies and unserved requests: 256 MiB, or an eighth if less
     40 MiB     the interpreter, its modules, and libraries
     30 MiB     a batch for the store, a session that is being read or written, a group for the journal
    the rest    what the allocator can't use, and the estimate's error: a fifth of the above
"""

from __future__ import annotations

from typing import Final

from msgspec import structs

from callstate_sidecar.config.origins import Origins
from callstate_sidecar.config.schema import MIB, LimitsConfig

HOT_FIFTHS: Final = 2
"""The default of `limits.hot_bytes` in fifths of the memory."""

REPLY_SHARE: Final = 8
"""The default of `limits.reply_bytes_total` is at most one of so many parts."""


def resolve_limits(limits: LimitsConfig, origins: Origins, memory_bytes: int) -> LimitsConfig:
    """The limits with numbers in place of what they leave to the host.

    Args:
        limits: as configured.
        origins: of the values; those that are configured stay as they are.
        memory_bytes: how much memory there is; 0: unknown.
    """
    if not memory_bytes:
        return limits
    hot_bytes = limits.hot_bytes or memory_bytes * HOT_FIFTHS // 5
    reply_bytes = limits.reply_bytes_total
    if "limits.reply_bytes_total" not in origins:
        reply_bytes = max(MIB, min(reply_bytes, memory_bytes // REPLY_SHARE))
    return structs.replace(limits, hot_bytes=hot_bytes, reply_bytes_total=reply_bytes)


def differing(limits: LimitsConfig, resolved: LimitsConfig) -> dict[str, str]:
    """By key, what is in force in place of what was configured, for `server.config`."""
    names = ("hot_bytes", "reply_bytes_total")
    return {
        f"limits.{name}": str(getattr(resolved, name)) for name in names
        if getattr(resolved, name) != getattr(limits, name)
    }  # fmt: skip
