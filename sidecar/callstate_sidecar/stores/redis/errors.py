"""Errors of Redis: whether one session is at fault or the whole server, and in which words that is said."""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from callstate_client.engine.sessions.stored import StoreDownError, StoreError, StoreRefusingError

_DETAIL_CHARS: Final = 200

# Redis before 7 puts the error code of a failed command in a script into the middle of a sentence, after a dash.
_REFUSING: Final = re.compile(
    r"(?:^|-)(?:OOM|READONLY|LOADING|NOAUTH|WRONGPASS|NOPERM|MISCONF|NOREPLICAS|MASTERDOWN|BUSY|CLUSTERDOWN)\b"
    r"|unknown command"
)
# redis-py turns these codes into classes and cuts them off the text.
_REFUSING_CLASSES: Final = (
    AuthenticationError, AuthorizationError, BusyLoadingError, ClusterDownError, MasterDownError,
    NoPermissionError, OutOfMemoryError, ReadOnlyError,
)  # fmt: skip


def is_refusal(error: Exception) -> bool:
    """Whether the error concerns the whole server, and not just one command."""
    return isinstance(error, _REFUSING_CLASSES) or (
        isinstance(error, ResponseError) and _REFUSING.search(str(error)) is not None
    )


def describe(error: Exception) -> str:
    """An error for logs: server errors name keys and commands, never documents."""
    return f"{type(error).__name__}: {str(error) or 'no answer'}"[:_DETAIL_CHARS]


def translate(error: Exception) -> StoreError:
    """The StoreError for an error of redis-py, or for one that leaked through it from a reset connection."""
    if isinstance(error.__cause__, RedisError):  # over a Unix socket, a refused AUTH arrives as ConnectionError
        return translate(error.__cause__)
    if isinstance(error, ResponseError) or is_refusal(error):
        return StoreRefusingError(describe(error))
    return StoreDownError(describe(error))
