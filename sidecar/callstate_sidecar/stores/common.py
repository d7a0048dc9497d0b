"""What RedisStore and SqliteStore share, and the one rule about who may overwrite whom."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import TracebackType
from typing import Final, NamedTuple, NoReturn, Self, SupportsIndex

import msgspec

from callstate_client.engine.sessions.stored import (
    StoreDownError,
    StoreRefusingError,
)
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
from callstate_client.model.history import check_turn_names
from callstate_client.model.state import SessionState
from callstate_client.model.times import now
from callstate_client.protocol.ids import SESSION_ID_RULE

DEFAULT_TTL_S: Final = 86400
"""A day: longer than any call, short enough that what nobody ended does not stay for ever."""

MAX_TTL_S: Final = 10 * 365 * 86400

_decode_ops = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_BEAT_MS: Final = 253_402_300_799_999  # the last millisecond a datetime can say


class Stamp(NamedTuple):
    """Who wrote a session, and how far it had come: what fencing compares."""

    host: str
    epoch: int
    version: int


def takes(held: Stamp | None, new: Stamp) -> bool:
    """The fencing rule: whether a write replaces what is held.

    A higher epoch does, and so does a version at least as high of the same epoch and host: the same version
    is a repeat, whose first reply may have been lost. What nobody of ours wrote is taken. `redis/scripts.py`
    says the same in Lua, and one table of cases tests both.
    """
    if held is None or new.epoch > held.epoch:
        return True
    return new.epoch == held.epoch and new.host == held.host and new.version >= held.version


def unseen(held: Stamp | None, new: Stamp, seen: int | None, *, there: bool) -> bool:
    """Whether the store has what a write's maker has not seen (`Write.seen`); in Lua as well.

    Args:
        held: the stamp of what it has; None for none.
        new: the write's.
        seen: the write's.
        there: whether it has a document, stamped or not.
    """
    if seen is None:
        return False
    if seen == 0:
        return there or held is not None
    return held is not None and held.host == new.host and held.version > seen and held.version != new.version


def superseded_by(held: Stamp) -> str:
    """In words, what a refused write ran into."""
    return f"the store has epoch {held.epoch}, version {held.version} of host {held.host or '(none)'}"


def ops_text(ops: Mapping[str, bytes]) -> bytes:
    """Results of repeatable mutations as one JSON object; empty for none."""
    if not ops:
        return b""
    return b"{%b}" % b",".join([b"%b:%b" % (msgspec.json.encode(op), result) for op, result in ops.items()])


def parse_ops(text: bytes | str) -> dict[str, bytes]:
    """What `ops_text` made; what can't be read counts as none."""
    try:
        return {op: bytes(result) for op, result in _decode_ops(text or b"{}").items()}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def ttl_ms(ttl: float | timedelta) -> int:
    """A time to live in milliseconds.

    Raises:
        ValueError: it is not between a millisecond and ten years.
    """
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else float(ttl)
    if not (math.isfinite(seconds) and 0.001 <= seconds <= MAX_TTL_S):
        raise ValueError(f"ttl must be 0.001 to {MAX_TTL_S} seconds, not {seconds}")
    return round(seconds * 1000)


def is_layout_name(session_id: str) -> bool:
    """Whether a key of the layout itself lies where this session's document would."""
    return not session_id or session_id == "active" or session_id.startswith("@")


def with_beat(state: SessionState, beat_ms: int) -> SessionState:
    """The state with the later of its `updated_at` and the last beat."""
    if not 0 < beat_ms <= _MAX_BEAT_MS:
        return state
    beat = _EPOCH + timedelta(milliseconds=beat_ms)
    try:
        later = beat > state.updated_at
    except ValueError:  # somebody wrote a time that is none; the beat is one
        later = True
    if later:
        state.updated_at = beat
    return state


class BeatResult(Enum):
    """What became of a heartbeat."""

    NOTED = "noted"
    MISSING = "missing"
    ENDED = "ended"


class Beat(NamedTuple):
    """The answer to a heartbeat; time and reason where the session has ended and they are known."""

    result: BeatResult
    ended_at: str = ""
    reason: str = ""


class DocumentStore(ABC):
    """A SessionStore over a few primitives, which raise StoreDownError or StoreRefusingError."""

    def __init__(self) -> None:
        self._closed = False

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can't be pickled or copied: make one from the same URL or path")

    # -- primitives --

    @property
    @abstractmethod
    def name(self) -> str:
        """What kind of store this is, for logs."""

    @abstractmethod
    async def _put(self, session_id: str, document: bytes, *, active: bool, call_id: str = "") -> None: ...

    @abstractmethod
    async def _get(self, session_id: str) -> tuple[bytes, int] | None:
        """Document and last beat in milliseconds."""

    @abstractmethod
    async def _remove(self, session_id: str) -> bool:
        """Whether it was there."""

    @abstractmethod
    async def _active(self) -> list[str]: ...

    @abstractmethod
    async def _beat(self, session_id: str, at_ms: int) -> Beat: ...

    @abstractmethod
    async def _ping(self) -> None: ...

    @abstractmethod
    async def _release(self) -> None:
        """Give up connections, files and threads; called once."""

    # -- SessionStore --

    async def save(self, state: SessionState | None) -> None:
        """Keep this state, whole, under its id for the ttl; sets its `updated_at`. None is a no-op.

        Whatever was there is replaced, as the Go package does it.

        Raises:
            InvalidParamsError: the id is empty, starts with `@` or is `active`: a key of the store's own.
            DocumentError: the state was loaded in part, or can't be written as JSON.
            StoreUnavailableError: the store can't be reached, or takes nothing now.
            StoreClosedError: after `close()`.
        """
        self._check_open()
        if state is None:
            return
        if is_layout_name(state.id):
            raise InvalidParamsError(f"{state.id!r} can't be a session id", path="$.id", expected=SESSION_ID_RULE)
        if state.history_from:
            raise DocumentError(
                f"{state.id} was loaded in part (from turn {state.history_from} on): saving it would drop the"
                " turns before"
            )
        state.updated_at = now()
        state.check_names()
        document = b"".join(state.pieces(check_turn_names))
        with _unavailable():
            await self._put(state.id, document, active=state.is_active, call_id=_plain(state.call_id))

    async def load(self, session_id: str) -> SessionState:
        """The state under this id, `updated_at` being the later of the last save and the last heartbeat.

        Raises:
            SessionNotFoundError: there is none.
            UnreadableError: what is there is no session document, or another session's.
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
        """Forget this session and all that is kept beside it.

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
        """The ids of all sessions that are there and have not ended, in no particular order.

        Raises:
            StoreUnavailableError, StoreClosedError: as `save`.
        """
        self._check_open()
        with _unavailable():
            return await self._active()

    async def update_heartbeat(self, session_id: str) -> None:
        """Say that this call is alive, and renew its ttl, without touching its document.

        Raises:
            SessionNotFoundError: there is no such session.
            SessionEndedError: it has ended.
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
            raise SessionEndedError(
                f"session {session_id!r} has ended",
                ended_at=beat.ended_at or None,
                reason=beat.reason or None,
            )

    async def ping(self) -> None:
        """Return once the store has answered.

        Raises:
            StoreUnavailableError, StoreClosedError: as `save`.
        """
        self._check_open()
        with _unavailable():
            await self._ping()

    async def close(self) -> None:
        """Give up what the store holds. May be called twice; every other operation then raises."""
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
    """A document that lies under this id.

    Raises:
        UnreadableError: it is none, or another session's.
    """
    try:
        return documents.read_stored(document, session_id)
    except DocumentError as error:
        raise UnreadableError(str(error)) from error


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (StoreDownError, StoreRefusingError) as error:
        raise StoreUnavailableError(str(error)) from error


def _not_found(session_id: str) -> SessionNotFoundError:
    return SessionNotFoundError(f"no session {session_id!r}")


def _plain(text: str) -> str:
    """The text without lone surrogates, which are no UTF-8."""
    return text.encode("utf-8", "replace").decode()
