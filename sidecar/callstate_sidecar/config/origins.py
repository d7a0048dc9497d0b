"""Where each value of the configuration comes from, for operators."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Final, NamedTuple

from callstate_sidecar.config.options import OPTIONS, Option
from callstate_sidecar.config.schema import Config
from callstate_sidecar.config.store_url import redact_url


class Origin(NamedTuple):
    """Where a value comes from."""

    source: str
    """`default`, `file`, `environment` or `flag`."""
    name: str = ""
    """The name of the file, variable or flag."""


DEFAULT: Final = Origin("default")

Origins = Mapping[str, Origin]
"""By key, of what is configured; the other keys are at their default."""


def value_of(config: Config, option: Option) -> str | int | float:
    """The value of a key."""
    value: str | int | float = attrgetter(option.key)(config)
    return value


def shown_value(config: Config, key: str) -> str | int | float:
    """The value of a key without its passwords, as in a reply."""
    value = as_sent(value_of(config, OPTIONS[key]))
    return redact_url(value) if isinstance(value, str) and OPTIONS[key].name == "url" else value


def as_sent(value: str | float) -> str | int | float:
    """A value as in a reply: `true` and `false` are words there, since older clients read numbers and strings."""
    return str(value).lower() if isinstance(value, bool) else value
