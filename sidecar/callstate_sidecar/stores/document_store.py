"""The SessionStore interface over a few primitives: what RedisStore and SqliteStore have in common.

These are stores that a program opens by itself, without a daemon, and that behave as the Go package does: a save
replaces what is there (last write wins), a heartbeat renews the TTL. The daemon does not use them; it writes to a
`Backend`, which has versions, epochs and fencing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn, Self, SupportsIndex

from callstate_client.engine.sessions.stored import StoreError
from callstate_client.errors import (
    DocumentError,
    InvalidParamsError,
    SessionEndedError,
    SessionNotFoundError,
    StoreClosedError,
    StoreUnavailableError,
    UnreadableError,
)
from callstate_client.model import documents
from callstate_client.model.documents import Parts
from callstate_client.model.free_values import check_free
from callstate_client.model.go_json import GO_DEPTH
from callstate_client.model.members import check_turn_names
from callstate_client.model.state import SessionState
from callstate_client.model.times import format_time, now
from callstate_client.protocol.ids import SESSION_ID_RULE
from callstate_sidecar.stores.encoding import is_layout_name

DEFAULT_TTL_S: Final = 86400
"""A day: longer than any call, short enough that sessions nobody ended don't stay for ever."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_BEAT_MS: Final = 253_402_300_799_999  # the last millisecond of year 9999, where datetime ends


def with_beat(state: SessionState, beat_ms: int) -> SessionState:
    """Set the state's `updated_at` to the last beat if that is later; returns the state."""
    if not 0 < beat_ms <= _MAX_BEAT_MS:
        return state
    beat = _EPOCH + timedelta(milliseconds=beat_ms)
    try:
        later = beat > state.updated_at
    except ValueError:  # another writer's `updated_at` is not a time; the beat's is
        later = True
    if later:
        state.updated_at = beat
    return state


class BeatResult(Enum):
    """What a store did with a heartbeat."""

    NOTED = "noted"
    MISSING = "missing"
    ENDED = "ended"


class Beat(NamedTuple):
    """The result of a heartbeat; for an ended session with the time and reason of its end, if known."""

    result: BeatResult
    ended_at: str = ""
    reason: str = ""


class DocumentStore(ABC):
    """A SessionStore; its subclasses implement the primitives, which raise StoreError."""

    def __init__(self) -> None:
        self._closed = False

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can't be pickled or copied: make one from the same URL or path")

    # -- primitives --

    @property
    @abstractmethod
    def name(self) -> str:
        """The kind of store, for logs."""

    @abstractmethod
    async def _put(self, session_id: str, document: bytes, *, active: bool, call_id: str = "") -> None: ...

    @abstractmethod
    async def _get(self, session_id: str) -> tuple[bytes, int] | None:
        """The document and the time of the last beat in milliseconds, or None if there is no such session."""

    @abstractmethod
    async def _remove(self, session_id: str) -> bool:
        """Remove a session; False if there was none."""

    @abstractmethod
    async def _active(self) -> list[str]: ...

    @abstractmethod
    async def _beat(self, session_id: str, at_ms: int) -> Beat: ...

    @abstractmethod
    async def _ping(self) -> None: ...

    @abstractmethod
    async def _release(self) -> None:
        """Close connections, files and threads; called once."""

    # -- SessionStore --

    async def save(self, state: SessionState | None) -> None:
        """Save the whole state under its id and start a new TTL; sets its `updated_at`. None is a no-op.

        Whatever was there is replaced, as in the Go package.

        Raises:
            InvalidParamsError: the id is empty, starts with `@` or is `active`, which are the store's own keys; or
                it is no text.
            DocumentError: the state was loaded in part, has a value that JSON can't keep as it is, or nobody could
                read it then: a member has a value of another type, such as a number for the provider.
            StoreUnavailableError: the store can't be reached, or refuses writes at present.
            StoreClosedError: after `close()`.
        """
        self._check_open()
        if state is None:
            return
        if not _is_text(state.id) or is_layout_name(state.id):
            raise InvalidParamsError(f"{state.id!r} can't be a session id", path="$.id", expected=SESSION_ID_RULE)
        if state.history_from:
            raise DocumentError(
                f"{state.id} was loaded in part (from turn {state.history_from} on): saving it would drop the"
                " turns before"
            )
        state.updated_at = now()
        state.check_names()
        for value, place in (
            (state.recovery_data, "recovery_data"),
            (state.extra, "the session"),
            (state.metrics.extra, "the metrics"),
        ):
            if value:
                _check_free(value, place)
        document = b"".join(state.pieces(_check_turn))
        try:
            documents.read_stored(document, state.id)
        except DocumentError as error:
            raise DocumentError(f"{state.id!r} could not be read back: {error}") from error
        with _unavailable():
            await self._put(state.id, document, active=state.is_active, call_id=_plain(state.call_id or ""))

    async def load(self, session_id: str) -> SessionState:
        """Load a session; its `updated_at` is the later of the last save and the last heartbeat.

        Raises:
            SessionNotFoundError: there is none.
            UnreadableError: the stored document is not a session's, or is another session's.
            StoreUnavailableError, StoreClosedError: as `save`.
        """
        self._check_open()
        with _unavailable():
            found = None if is_layout_name(session_id) else await self._get(session_id)
        if found is None:
            raise _not_found(session_id)
        document, beat_ms = found
        return with_beat(SessionState.of_parts(read_document(document, session_id)), beat_ms)

    async def delete(self, session_id: str) -> None:
        """Delete a session and everything kept beside it.

        Raises:
            SessionNotFoundError: there is none.
            StoreUnavailableError, StoreClosedError: as `save`.
        """
        self._check_open()
        with _unavailable():
            found = not is_layout_name(session_id) and await self._remove(session_id)
        if not found:
            raise _not_found(session_id)

    async def list_active(self) -> list[str]:
        """The ids of all sessions that have not ended, in no particular order.

        Raises:
            StoreUnavailableError, StoreClosedError: as `save`.
        """
        self._check_open()
        with _unavailable():
            return await self._active()

    async def update_heartbeat(self, session_id: str) -> None:
        """Record that this call is alive and renew its TTL, without touching its document.

        Raises:
            SessionNotFoundError: there is no such session.
            SessionEndedError: it has ended; `ended_at` is its last change, if whoever ended it did not note more.
            StoreUnavailableError, StoreClosedError: as `save`.
        """
        self._check_open()
        if is_layout_name(session_id):
            raise _not_found(session_id)
        at_ms = (now() - _EPOCH) // timedelta(milliseconds=1)
        with _unavailable():
            beat = await self._beat(session_id, at_ms)
        if beat.result is BeatResult.MISSING:
            raise _not_found(session_id)
        if beat.result is BeatResult.ENDED:
            ended_at = beat.ended_at or format_time((await self.load(session_id)).updated_at)
            raise SessionEndedError(
                f"session {session_id!r} has ended", ended_at=ended_at, reason=beat.reason or None
            )

    async def ping(self) -> None:
        """Check that the store answers.

        Raises:
            StoreUnavailableError, StoreClosedError: as `save`.
        """
        self._check_open()
        with _unavailable():
            await self._ping()

    async def close(self) -> None:
        """Close the store. May be called twice; every other operation then raises StoreClosedError."""
        if not self._closed:
            self._closed = True
            await self._release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError


def read_document(document: bytes, session_id: str) -> Parts:
    """Parse the document stored under this id.

    Raises:
        UnreadableError: it is not a session's, or is another session's.
    """
    try:
        return documents.read_stored(document, session_id)
    except DocumentError as error:
        raise UnreadableError(str(error)) from error


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise StoreUnavailableError(str(error)) from error


def _not_found(session_id: str) -> SessionNotFoundError:
    return SessionNotFoundError(f"no session {session_id!r}")


def _check_free(value: Any, place: str) -> None:
    """Check that what is passed through comes back as it is. Integers and nesting may be as Go has them."""
    check_free(value, place, GO_DEPTH, int64=False)


def _check_turn(extra: dict[str, Any]) -> None:
    """Check the further members of a turn."""
    check_turn_names(extra)
    _check_free(extra, "a turn")


def _is_text(session_id: object) -> bool:
    """Whether this is a text that can be encoded, as `surrogateescape` has it: Go's ids need not be UTF-8."""
    try:
        return isinstance(session_id, str) and session_id.encode("utf-8", "surrogateescape") is not None
    except UnicodeEncodeError:
        return False


def _plain(text: str) -> str:
    """The text without lone surrogates, which UTF-8 can't encode."""
    return text.encode("utf-8", "replace").decode()
