"""The named values of statuses, directions and roles. None is a closed set: any string up to 64 bytes is taken."""

from __future__ import annotations

from enum import EnumMeta, StrEnum


class _Words(EnumMeta):
    def __contains__(cls, value: object) -> bool:  # as from Python 3.12 on
        return isinstance(value, str) and value in cls._value2member_map_


class Status(StrEnum, metaclass=_Words):
    """The named statuses. Only `ended` is not active."""

    PENDING = "pending"
    ACTIVE = "active"
    ON_HOLD = "on_hold"
    TRANSFERRING = "transferring"
    ENDED = "ended"


class Direction(StrEnum, metaclass=_Words):
    """The named directions."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Role(StrEnum, metaclass=_Words):
    """The named roles of a turn; agents have `system` and `tool` turns too."""

    USER = "user"
    AGENT = "agent"
