"""A reload of the configuration: what has changed, and which of it needs a restart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import UNSET

from callstate_client.protocol.results import Setting
from callstate_sidecar.config.options import OPTIONS
from callstate_sidecar.config.origins import DEFAULT, Origins, as_sent, shown_value, value_of
from callstate_sidecar.config.schema import Config

SECTIONS: Final = frozenset({"access", "limits", "log"})
KEYS: Final = frozenset({"reaper.heartbeat_timeout_s"})
"""What a reload applies: all of these sections, and these keys. The rest is built in at the start."""

CAPPED: Final = frozenset({"limits.reply_bytes_total"})
"""Defaults that are lower where there is little memory."""


def is_applied(key: str) -> bool:
    """Whether a reload applies this key."""
    return key in KEYS or key.partition(".")[0] in SECTIONS


def changed_keys(before: Config, after: Config) -> list[str]:
    """The keys with different values, in the order of the reference file."""
    return [key for key, option in OPTIONS.items() if value_of(before, option) != value_of(after, option)]


class Reloads:
    """The configuration in force, and what waits for a restart.

    Args:
        config: with which the daemon has started.
        origins: where its values come from.
    """

    def __init__(self, config: Config, origins: Origins) -> None:
        self._started, self._started_origins = config, origins
        self._last, self._last_origins = config, origins
        self.needs_restart: list[str] = []
        """Keys whose configured value differs from the one in force."""

    def take(self, config: Config, origins: Origins) -> list[str]:
        """Note a configuration that was read anew. Returns the changed keys that a reload applies."""
        applied = [key for key in changed_keys(self._last, config) if is_applied(key)]
        self._last, self._last_origins = config, origins
        self.needs_restart = [key for key in changed_keys(self._started, config) if not is_applied(key)]
        return applied

    def settings(self, resolved: Mapping[str, str]) -> Iterator[Setting]:
        """What is in force, and where it comes from, in the order of the reference file.

        Args:
            resolved: by key, what an empty value stands for on this host, and what those of CAPPED are cut to.
        """
        for key, option in OPTIONS.items():
            applied = is_applied(key)
            config = self._last if applied else self._started
            origin = (self._last_origins if applied else self._started_origins).get(key, DEFAULT)
            value = shown_value(config, key)
            yield Setting(
                key=key,
                value=value,
                source=origin.source,
                name=origin.name,
                default=as_sent(option.default),
                resolved=resolved.get(key, "") if not value or key in CAPPED else "",
                pending=shown_value(self._last, key) if key in self.needs_restart else UNSET,
            )
