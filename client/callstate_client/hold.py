"""`store.hold()`: a call for as long as a block lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from callstate_client.errors import CallstateError, FencedError, MethodNotFoundError, SessionEndedError
from callstate_client.handle import CallHandle
from callstate_client.model import SessionState
from callstate_client.store import Record

if TYPE_CHECKING:
    from callstate_client.api import CallStore

__all__ = ["BeatMode", "Hold"]

BeatMode = Literal["auto", "manual"]


class Hold:
    """What `store.hold()` gives: creates or claims the session on entering, ends or releases it on leaving."""

    def __init__(
        self,
        store: CallStore,
        call: SessionState | str,
        *,
        labels: Mapping[str, str] | None,
        heartbeat_timeout_s: float | None,
        max_duration_s: float | None,
        beat: BeatMode,
        end_on: tuple[type[BaseException], ...],
        steal: bool,
    ) -> None:
        if isinstance(call, str) and (labels is not None or max_duration_s is not None):
            raise ValueError("labels and max_duration_s are for a new session; this one is there already")
        if not isinstance(call, str) and steal:
            raise ValueError("only a session that is there already can be stolen")
        if beat not in ("auto", "manual"):
            raise ValueError(f"beat is 'auto' or 'manual', not {beat!r}")
        self._store = store
        self._call = call
        self._labels = labels
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._max_duration_s = max_duration_s
        self._beat: BeatMode = beat
        self._end_on = end_on
        self._steal = steal
        self._handle: CallHandle | None = None

    async def __aenter__(self) -> CallHandle:
        if self._beat == "auto" and self._heartbeat_timeout_s is None:
            await (
                self._store.default_heartbeat_timeout_s()
            )  # asked for now: a call that is held is beaten for at once
        if isinstance(self._call, str):
            self._handle = await self._claim(self._call)
        else:
            self._handle = await self._create(self._call)
        return self._handle

    async def _create(self, state: SessionState) -> CallHandle:
        # A save does not say the epoch, which is not always 0: an id may have been used before. It is asked for
        # in the same write as the save, behind it, so it costs no time, and hardly anybody comes in between.
        # Needed by registered workers too: what was stolen from us and released again is nobody's, and would
        # take our late turns.
        version, known = await asyncio.gather(
            self._store.save(
                state,
                if_version=0,
                labels=self._labels,
                heartbeat_timeout_s=self._heartbeat_timeout_s,
                max_duration_s=self._max_duration_s,
            ),
            self._store.get(state.id, "none"),
            return_exceptions=True,
        )
        if isinstance(version, BaseException):
            raise version
        record = Record(state, version or 0, heartbeat_timeout_s=self._heartbeat_timeout_s)
        return await self._store._handle(record, beat=self._beat, epoch=self._epoch(known))

    def _epoch(self, known: Record | BaseException) -> int | None:
        """The epoch of the session just made; None where it could not be learned, which does not undo the session.

        Raises:
            FencedError: somebody has claimed it in that very moment.
        """
        if isinstance(known, CallstateError):
            return None
        if isinstance(known, BaseException):
            raise known
        if known.owner not in (None, self._store.worker_id):
            text = f"{known.state.id} was claimed by {known.owner} as it was created"
            raise FencedError(text, epoch=known.epoch, owner=known.owner)
        return known.epoch

    async def _claim(self, session_id: str) -> CallHandle:
        try:
            record = await self._store.claim(session_id, steal=self._steal)
        except MethodNotFoundError:  # an older daemon, which knows no owners
            record = await self._store.get(session_id)
            if not record.state.is_active:
                raise SessionEndedError(f"{session_id} has ended", reason=record.ended_reason) from None
        if self._heartbeat_timeout_s is not None:
            record.heartbeat_timeout_s = self._heartbeat_timeout_s
        return await self._store._handle(record, beat=self._beat, epoch=record.epoch)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handle, self._handle = self._handle, None
        assert handle is not None  # noqa: S101 - entered before it is left
        await handle.leave(error, self._end_on)
