"""A reload of the configuration: what has changed, and which of it needs a restart."""

from __future__ import annotations

from typing import Final

from callstate_sidecar.config.options import OPTIONS, Option
from callstate_sidecar.config.schema import Config

SECTIONS: Final = frozenset({"limits", "log"})
KEYS: Final = frozenset({"reaper.heartbeat_timeout_s"})
"""What a reload applies: all of these sections, and these keys. The rest is built in at the start."""


def is_applied(key: str) -> bool:
    """Whether a reload applies this key."""
    return key in KEYS or key.partition(".")[0] in SECTIONS


def changed_keys(before: Config, after: Config) -> list[str]:
    """The keys with different values, in the order of the reference file."""
    return [key for key, option in OPTIONS.items() if _value(before, option) != _value(after, option)]


class Reloads:
    """The configuration in force, and what waits for a restart.

    Args:
        config: with which the daemon has started.
    """

    def __init__(self, config: Config) -> None:
        self._started = config
        self._last = config
        self.needs_restart: list[str] = []
        """Keys whose configured value differs from the one in force."""

    def take(self, config: Config) -> list[str]:
        """Note a configuration that was read anew. Returns the changed keys that a reload applies."""
        applied = [key for key in changed_keys(self._last, config) if is_applied(key)]
        self._last = config
        self.needs_restart = [key for key in changed_keys(self._started, config) if not is_applied(key)]
        return applied


def _value(config: Config, option: Option) -> object:
    return getattr(getattr(config, option.section), option.name)
