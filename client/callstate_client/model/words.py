"""The named values of statuses, directions and roles. Any other string up to 64 bytes is accepted too."""

from __future__ import annotations

from enum import EnumMeta, StrEnum


class _Words(EnumMeta):
    def __contains__(cls, value: object) -> bool:  # as from Python 3.12 on
        return isinstance(value, str) and value in cls._value2member_map_


class Status(StrEnum, metaclass=_Words):
    """The named statuses. All but `ended` are active."""

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
    """The named roles of a turn. Only `user` and `agent` turns are speech; see model/tools.py for the others."""

    USER = "user"
    AGENT = "agent"
    SYSTEM = "system"
    TOOL = "tool"
