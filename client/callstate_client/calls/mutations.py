"""The mutations of a held call: checked, made in the worker's view of the call, and queued in its outbox.

Each method raises what can't be sent before anything has changed; the rest is the outbox's (calls/outbox).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

from callstate_client import protocol, requests
from callstate_client.calls.outbox.backlog import MAX_ENTRY_BYTES
from callstate_client.calls.outbox.entry import OutboxEntry
from callstate_client.calls.outbox.local_changes import (
    Change,
    HeadPatched,
    Interrupted,
    Switched,
    TurnAdded,
    TurnAmended,
)
from callstate_client.calls.outbox.outbox import Outbox
from callstate_client.calls.queued import AmendableTurn, QueuedMutation, TurnHandle, amendable, queued
from callstate_client.model.members import encode_members
from callstate_client.model.metrics import RESPONSE_MS
from callstate_client.model.state import SessionState
from callstate_client.model.times import now_text
from callstate_client.model.turn import Turn
from callstate_client.model.wellformed import as_text, cleaned, turn_extra, turn_values
from callstate_client.requests import PreparedRequest, validation
from callstate_client.requests.patches import Beside, find_last_turn, patched_turn, split_changes, turn_patch
from callstate_client.session_api import SessionApi

__all__ = ["Mutations"]

HEAD: Final = object()
"""The key of updates: those that wait are merged into one."""


class Mutations:
    """The mutations of one call; for the methods see `CallHandle`.

    Args:
        state: the worker's view of the call, which they change.
        outbox: of the call.
        store: sends updates that take more than one request.
        on_beside: called with new labels and timeouts once they are acknowledged.
    """

    __slots__ = ("_on_beside", "_outbox", "_state", "_store")

    def __init__(
        self, state: SessionState, outbox: Outbox, store: SessionApi, on_beside: Callable[[Beside], None]
    ) -> None:
        self._state = state
        self._outbox = outbox
        self._store = store
        self._on_beside = on_beside

    # -- turns ----------------------------------------------------------------------------------------------

    def add_turn(
        self,
        role: str,
        content: str,
        duration_ms: int,
        at: datetime | None,
        extra: dict[str, Any] | None,
        response_ms: int | None,
    ) -> AmendableTurn:
        """Append a turn."""
        role, content, duration_ms = turn_values(role, content, duration_ms)
        if extra is not None or response_ms is not None:
            extra = cleaned(turn_extra(extra, response_ms))
        turn = Turn(role, content, at, duration_ms, extra)
        if self._store._redaction is not None:
            turn = self._store._redaction.turn(self._state.id, turn)
        validation.check_turn(turn)
        encoded = turn.to_json()
        self._outbox.check_room(len(encoded))
        entry = self._outbox.add_turn(encoded, TurnAdded(self._state, turn))
        self._state.saved_at(now_text())
        return amendable(self, turn, entry)

    def amend(
        self, turn: TurnHandle, content: str | None, duration_ms: int | None, extra: dict[str, Any] | None
    ) -> QueuedMutation:
        """Amend exactly this turn: in the outbox while it waits there, else by a request."""
        if turn.place.refusal is not None:
            return queued(turn.place)
        content, extra = self._redacted(turn.turn.role, content, extra)
        patch = turn_patch(content, duration_ms, extra)
        # not with other times: the daemon would count those, instead of the first
        if not patch.keys() & {"duration_ms", RESPONSE_MS} and self._outbox.is_rewritable(turn.place):
            amended = patched_turn(turn.turn, patch)
            text = amended.to_json()
            if len(text) <= MAX_ENTRY_BYTES:
                self._outbox.check_room(max(0, len(text) - turn.place.size))
                self._outbox.rewrite(turn.place, text)
                turn.turn.become(amended)
                self._state.saved_at(now_text())
                return queued(turn.place)
        self._check_amendable(0, None)
        # with its role: if the history has been replaced by a shorter one, it is a conflict, not another turn
        request = requests.amend_turn(
            self._state.id, None, turn.turn.role, content, duration_ms, extra, self._store.new_op()
        )
        return self._put(request, TurnAmended(turn.turn, patch), key=turn.turn, amends=turn.place)

    def amend_last_turn(
        self, content: str | None, duration_ms: int | None, extra: dict[str, Any] | None, role: str | None
    ) -> QueuedMutation:
        """Amend the last turn, or the last one of a role."""
        self._check_amendable(None, role)
        turn = find_last_turn(self._state, role)
        content, extra = self._redacted(turn.role, content, extra)
        request = requests.amend_turn(self._state.id, None, role, content, duration_ms, extra, self._store.new_op())
        change = TurnAmended(turn, turn_patch(content, duration_ms, extra))
        return self._put(request, change, key=turn, follows=self._outbox.turn_of(turn))

    def _redacted(
        self, role: str, content: str | None, extra: dict[str, Any] | None
    ) -> tuple[str | None, dict[str, Any] | None]:
        redaction = self._store._redaction
        return (content, extra) if redaction is None else redaction.patch(self._state.id, role, content, extra)

    def _check_amendable(self, index: int | None, role: str | None) -> None:
        requests.check_amendable(index, role, self._store._known_features or protocol.FEATURES)

    # -- the rest of the session ----------------------------------------------------------------------------

    def record_interruption(self) -> QueuedMutation:
        """Count an interruption."""
        request = requests.record_interruption(self._state.id, self._store.new_op())
        return self._put(request, Interrupted(self._state))

    def update(self, changes: Mapping[str, Any]) -> QueuedMutation:
        """Patch the head. Labels and timeouts are not part of the document, so changing them takes a read and a
        write: they are queued as an action."""
        patch, beside = split_changes(changes)
        change = HeadPatched(self._state, patch)
        if not beside:
            request = requests.update(self._state.id, None, patch, self._store.new_op())
            return self._put(request, change, key=HEAD)
        self._outbox.check_room(len(encode_members(patch)))
        entry = self._outbox.put_action("session.update", partial(self._rewrite_head, patch, beside), change)
        self._state.saved_at(now_text())
        return queued(entry)

    async def _rewrite_head(self, patch: dict[str, Any], beside: Beside) -> int:
        version = await self._store._rewrite_head(self._state.id, None, patch, beside, epoch=self._outbox.epoch)
        self._on_beside(beside)
        return version

    def end(self, reason: str, detail: Any, set_ended: Callable[[bool], None]) -> QueuedMutation:
        """End the session; `set_ended` is called with whether it has ended, as far as its worker knows."""
        reason = as_text(reason, "a reason")
        validation.check_word(reason, "$.params.reason", least=1)
        request = requests.end(self._state.id, reason, detail, self._store.new_op())
        return self._put(request, Switched(self._state, set_ended))

    def _put(
        self,
        request: PreparedRequest[int],
        change: Change,
        *,
        key: object = None,
        follows: OutboxEntry | None = None,
        amends: OutboxEntry | None = None,
    ) -> QueuedMutation:
        params = request.params
        assert isinstance(params, protocol.Mutation)  # noqa: S101 - all but turns and saves are prepared so
        entry = self._outbox.put(request.method, params, change, key=key, follows=follows, amends=amends)
        self._state.saved_at(now_text())
        return queued(entry)
