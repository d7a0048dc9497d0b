"""Errors of Redis: whether one session is at fault or the whole server, and in which words that is said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from callstate_client.engine.sessions.stored import (
    StoreBrokenError,
    StoreDownError,
    StoreError,
    StorePartDownError,
    StoreRefusingError,
    StoreTimeoutError,
    StoreUnsuitableError,
)
from callstate_sidecar.stores.redis.replies import BrokenError


class NodeAwayError(Exception):
    """A primary of a cluster does not answer, while others do."""


class UnsuitableServerError(Exception):
    """The server is of another kind than the URL says, or can't do what the configuration asks for."""


_OURS: Final[dict[type[Exception], type[StoreError]]] = {
    UnsuitableServerError: StoreUnsuitableError,
    NodeAwayError: StorePartDownError,
    BrokenError: StoreBrokenError,
}

_DETAIL_CHARS: Final = 200

# Redis before 7 puts the error code of a failed command in a script into the middle of a sentence, after a dash.
# Redis 7 puts no code at all before a refused permission of a command in a script.
_REFUSING: Final = re.compile(
    r"(?:^|-)(?:OOM|READONLY|LOADING|NOAUTH|WRONGPASS|NOPERM|MISCONF|NOREPLICAS|MASTERDOWN|BUSY|CLUSTERDOWN"
    r"|CROSSSLOT|MOVED|ASK|TRYAGAIN|IOERR|DENIED)\b"
    r"|[Uu]nknown (?:Redis )?command"
    r"|ACL failure in script"
    r"|user executing the script can't"
    r"|do not hash to the same slot|non local key in a cluster"
)
# redis-py turns these codes into classes and cuts them off the text.
_REFUSING_CLASSES: Final = (
    AuthenticationError, AuthorizationError, BusyLoadingError, ClusterError, MasterDownError,
    NoPermissionError, OutOfMemoryError, ReadOnlyError,
)  # fmt: skip

_ARGUMENTS: Final = ", with args beginning with:"
"""What follows in an error about an unknown command: its arguments, perhaps a document's beginning."""

_OF_ONE_KEY: Final = "WRONGTYPE"
"""The only error of a script that tells of one key, and perhaps of one session."""


def is_refusal(error: Exception) -> bool:
    """Whether the error concerns the whole server, and not just one command."""
    return isinstance(error, _REFUSING_CLASSES) or (
        isinstance(error, ResponseError) and _REFUSING.search(str(error)) is not None
    )


def fault_of_all(replies: Sequence[Any]) -> ResponseError | None:
    """The error among a batch's replies that concerns the whole server, if there is one.

    It is one if its code says so, or if every session of a batch fails with the same words and those are not about
    the type of a key: no document can be the reason then.
    """
    errors = [reply for reply in replies if isinstance(reply, ResponseError)]
    for error in errors:
        if is_refusal(error):
            return error
    if 1 < len(errors) == len(replies) and len({str(error) for error in errors}) == 1 and not is_of_key(errors[0]):
        return errors[0]
    return None


def is_of_key(error: Exception) -> bool:
    """Whether the error says that a key holds another type."""
    return str(error).startswith(_OF_ONE_KEY) or f"-{_OF_ONE_KEY}" in str(error)


def describe(error: Exception) -> str:
    """An error for logs: server errors name keys and commands, never documents."""
    if isinstance(error, AuthenticationError):
        # redis-py cuts the code off, and what is left does not say what to do
        if "required" in str(error):
            return "NOAUTH: Redis asks for a password, and none is configured (store.password_file)"
        if "no password is set" in str(error) or "without any password" in str(error):
            return "Redis has no password, and one is configured (store.password_file, store.url)"
        return "WRONGPASS: Redis does not take this user name and password"
    text = str(error).partition(_ARGUMENTS)[0] or "no answer"
    return f"{type(error).__name__}: {text}"[:_DETAIL_CHARS]


def translate(error: Exception) -> StoreError:
    """The StoreError for an error of redis-py, or for one that leaked through it from a reset connection."""
    ours = _OURS.get(type(error))
    if ours is not None:
        return ours(str(error))
    if isinstance(
        error.__cause__, RedisError | UnsuitableServerError
    ):  # over a Unix socket, a refused AUTH arrives as ConnectionError
        return translate(error.__cause__)
    if isinstance(error, ResponseError) or is_refusal(error):
        return StoreRefusingError(describe(error))
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return StoreTimeoutError(describe(error))
    return StoreDownError(describe(error))
