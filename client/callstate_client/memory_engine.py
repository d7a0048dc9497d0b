"""The daemon's verbs over a dict: what MemoryStore asks in place of a daemon. A request in, a reply out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from callstate_client import protocol as p
from callstate_client.engine_kept import Kept
from callstate_client.engine_owners import Owners
from callstate_client.engine_workers import Caller
from callstate_client.errors import (
    ConflictError,
    DocumentError,
    InvalidParamsError,
    MethodNotFoundError,
    SessionNotFoundError,
    ShuttingDownError,
    TooLargeError,
)
from callstate_client.model.history import Turn, decode_turn
from callstate_client.model.state import SessionState, Status, encode_members
from callstate_client.model.times import ZERO_TIME, format_time
from callstate_client.protocol import patches
from callstate_client.protocol.validation import (
    check_detail,
    check_labels,
    check_word,
    wrong,
)
from callstate_client.rules import (
    check_names,
    check_state,
    check_turn,
    check_turn_names,
    wrong_document,
    wrong_params,
)
from callstate_client.shelf import COMPLETED, DELETED, Shelf

OPS_REMEMBERED: Final = 16
"""Results of a session's last so many repeatable mutations (the wire contract)."""

SESSION_BYTES: Final = 8 * 1024 * 1024
"""`limits.session_bytes` of a daemon, by default."""


class _Presence(msgspec.Struct):
    history: Raw | UnsetType = UNSET


class Engine(Owners):
    """Answers one view of a shelf of sessions."""

    def __init__(self, shelf: Shelf, caller: Caller) -> None:
        super().__init__(shelf, caller)
        self._verbs: dict[str, tuple[type[p.Params], Callable[[Any], bytes]]] = {
            "session.save": (p.SaveParams, self._save),
            "session.load": (p.LoadParams, self._load),
            "session.delete": (p.DeleteParams, self._delete),
            "session.list_active": (p.ListActiveParams, self._list_active),
            "session.list": (p.ListParams, self._list),
            "session.heartbeat": (p.HeartbeatParams, self._heartbeat),
            "session.add_turn": (p.AddTurnParams, self._add_turn),
            "session.amend_turn": (p.AmendTurnParams, self._amend_turn),
            "session.record_interruption": (p.RecordInterruptionParams, self._record_interruption),
            "session.update": (p.UpdateParams, self._update),
            "session.end": (p.EndParams, self._end),
            "session.claim": (p.ClaimParams, self._claim),
            "session.claim_next": (p.ClaimNextParams, self._claim_next),
            "session.release": (p.ReleaseParams, self._release),
            "worker.register": (p.RegisterParams, self._register),
            "events.subscribe": (p.SubscribeParams, self._subscribe),
            "server.ping": (p.NoParams, lambda _: b"{}"),
            "server.info": (p.NoParams, self._info),
            "server.stats": (p.NoParams, self._stats),
            "server.flush": (p.FlushParams, self._flush),
            "server.drain": (p.DrainParams, self._drain),
        }

    def answer(self, line: bytes) -> bytes:
        """The reply line to a request line, as a daemon would give it.

        Raises:
            WireError: where a daemon would answer with an error.
        """
        if len(line) > p.LINE_BYTES:
            raise TooLargeError(f"the line is longer than {p.LINE_BYTES} bytes")
        request = msgspec.json.decode(line, type=p.Request)
        if request.method not in self._verbs:
            raise MethodNotFoundError(f"no method {request.method}")
        params_type, run = self._verbs[request.method]
        try:
            raw = request.params if isinstance(request.params, Raw) else b"{}"
            params = msgspec.json.decode(raw, type=params_type)
        except msgspec.ValidationError as error:
            raise wrong_params(error) from error
        self._shelf.catch_up()
        return b'{"jsonrpc":"2.0","id":0,"result":%b}' % run(params)

    # -- writing ------------------------------------------------------------------------------------------

    def _save(self, params: p.SaveParams) -> bytes:
        try:
            state = SessionState.from_json(params.session)
        except DocumentError as error:
            raise wrong_document(error, "$.params.session") from error
        check_names(params.session, "$.params.session")
        check_state(state, "$.params.session")
        check_word(params.op, "$.params.op", least=1)
        if params.labels is not None:
            check_labels(params.labels)
        if len(params.session) > SESSION_BYTES:
            raise TooLargeError(f"the session would pass {SESSION_BYTES} bytes")
        kept = self._shelf.get(state.id)
        if kept is None:
            kept, was_ended, life, created = self._create(params, state), False, True, True
        else:
            created = False
            done = kept.ops.get(params.op or "")
            if done is not None:
                return done
            was_ended, life = kept.ended, self._is_life(kept, params.epoch)
            self._permit(kept, params, state)
            if msgspec.json.decode(params.session, type=_Presence).history is UNSET:
                state.history = kept.state.history
            kept.state = state
        if params.labels is not None:
            kept.labels = params.labels
        before_s = kept.heartbeat_timeout_s
        if params.heartbeat_timeout_s is not None:
            kept.heartbeat_timeout_s = params.heartbeat_timeout_s
        if params.max_duration_s is not None:
            kept.max_duration_s = params.max_duration_s
        if not kept.ended:
            self._note_retimed(kept, before_s)
        if created:
            self._shelf.events.note("created", self._shelf.clock.now(), kept)
        self._settle(kept, was_ended, life)
        result = {
            "version": kept.version,
            "updated_at": format_time(kept.state.updated_at),
            "epoch": kept.epoch,
            "heartbeat_timeout_s": kept.heartbeat_timeout_s,
        }
        return self._done(kept, params.op, p.encode_json(result))

    def _permit(self, kept: Kept, params: p.SaveParams, state: SessionState) -> None:
        """Whether this save may be; begins a call anew where it is made in the knowledge that it is over."""
        self._check_version(kept, params.if_version)
        if kept.ended and params.if_version is not None and state.status != Status.ENDED:
            self._check_epoch(kept, params.epoch)
            self._shelf.begin_anew(kept, self._caller)
        else:
            self._check_writable(kept, params.epoch)

    def _create(self, params: p.SaveParams, state: SessionState) -> Kept:
        if params.if_version:
            raise ConflictError("there is no such session", version=0)
        if params.epoch is not None:
            raise SessionNotFoundError(f"no session {state.id}")
        if self._shelf.draining:
            raise ShuttingDownError("the daemon drains: no new sessions")
        return self._shelf.create(state, self._caller)

    def _delete(self, params: p.DeleteParams) -> bytes:
        check_word(params.op, "$.params.op", least=1)
        done = self._shelf.done_before(params.session_id, params.op)
        if done is not None:
            return done
        kept = self._shelf.find(params.session_id)
        self._check_held(kept, params.epoch)
        done = self._done(kept, params.op, DELETED)
        self._shelf.remove(kept)
        return done

    def _add_turn(self, params: p.AddTurnParams) -> bytes:
        if (params.turn is UNSET) == (params.turns is UNSET):
            raise wrong("$.params", "one of turn and turns")
        kept, done = self._repeatable(params)
        if done is not None:
            return done
        self._check_writable(kept, params.epoch)
        parts = [params.turn] if isinstance(params.turn, Raw) else self._parts(params.turns)
        turns = [self._turn(part, index, params) for index, part in enumerate(parts)]
        self._check_room(kept, sum(len(part) for part in parts))
        for turn in turns:
            kept.state.append_turn(turn)
        count = len(kept.state.history)
        self._shelf.events.note("turn", self._shelf.clock.now(), kept, turn_count=count)
        self._settle(kept, kept.ended, self._is_life(kept, params.epoch))
        result = {"version": kept.version, "turn_count": count}
        return self._done(kept, params.op, p.encode_json(result))

    def _turn(self, part: Raw, index: int, params: p.AddTurnParams) -> Turn:
        path = "$.params.turn" if isinstance(params.turn, Raw) else f"$.params.turns[{index}]"
        try:
            turn = decode_turn(part)
        except DocumentError as error:
            raise wrong_document(error, path) from error
        check_turn_names(msgspec.json.decode(part), path)
        check_turn(turn, path)
        if turn._timestamp == ZERO_TIME:
            turn.timestamp = self._shelf.clock.now()
        return turn

    def _parts(self, turns: Raw | UnsetType) -> list[Raw]:
        try:
            return msgspec.json.decode(turns if isinstance(turns, Raw) else b"", type=list[Raw])
        except msgspec.MsgspecError as error:
            raise wrong("$.params.turns", "array") from error

    def _amend_turn(self, params: p.AmendTurnParams) -> bytes:
        kept, done = self._repeatable(params)
        if done is not None:
            return done
        self._check_writable(kept, params.epoch)
        index = patches.find_turn(kept.state, params.index, params.role)
        before = kept.state.history[index]
        changes = msgspec.json.decode(params.set)
        check_turn_names(changes, "$.params.set")
        try:
            turn = patches.patch_turn(kept.state, index, changes)
            check_turn(turn, "$.params.set")
            if len(encode_members(turn.to_dict())) > len(encode_members(before.to_dict())):
                self._check_size(kept, 0)
            else:
                kept.full = False
        except DocumentError as error:
            raise wrong_document(error, "$.params.set") from error
        except (InvalidParamsError, TooLargeError):
            kept.state.history[index] = before
            raise
        self._shelf.changed(kept, kept.ended, life=self._is_life(kept, params.epoch))
        return self._done(kept, params.op, b'{"version":%d,"index":%d}' % (kept.version, index))

    def _record_interruption(self, params: p.RecordInterruptionParams) -> bytes:
        kept, done = self._repeatable(params)
        if done is not None:
            return done
        self._check_writable(kept, params.epoch)
        kept.state.record_interruption()
        return self._changed(kept, params, kept.ended)

    def _update(self, params: p.UpdateParams) -> bytes:
        kept, done = self._repeatable(params)
        if done is not None:
            return done
        self._check_writable(kept, params.epoch)
        self._check_version(kept, params.if_version)
        changes = msgspec.json.decode(params.set)
        if not isinstance(changes, dict):
            raise wrong("$.params.set", "object")
        for name in patches.UNPATCHABLE.intersection(changes):
            raise wrong(f"$.params.set.{name}", "nothing")
        patches.check_patch(changes, "$.params.set")
        patched = kept.state.copy()
        try:
            patches.patch_state(patched, changes)
        except DocumentError as error:
            raise wrong_document(error, "$.params.set") from error
        check_state(patched, "$.params.set")
        if kept.ended and patched.status != Status.ENDED:
            raise kept.ended_error()
        was_ended, kept.state = kept.ended, patched
        return self._changed(kept, params, was_ended)

    def _end(self, params: p.EndParams) -> bytes:
        check_word(params.reason, "$.params.reason", least=1)
        if not isinstance(params.detail, UnsetType):
            check_detail(bytes(params.detail))
        kept, done = self._repeatable(params)
        if done is not None:
            return done
        if kept.ended:  # a repeat changes nothing; one of an epoch before is no repeat
            self._check_epoch(kept, params.epoch)
            return b'{"version":%d}' % kept.version
        self._check_held(kept, params.epoch)
        kept.state.status = Status.ENDED
        kept.ended_detail = None if isinstance(params.detail, UnsetType) else bytes(params.detail)
        return self._changed(kept, params, was_ended=False, reason=params.reason or COMPLETED)

    # -- shared -------------------------------------------------------------------------------------------

    def _repeatable(self, params: p.Mutation) -> tuple[Kept, bytes | None]:
        """The session, and the result where this very mutation was done before."""
        check_word(params.op, "$.params.op", least=1)
        kept = self._shelf.find(params.session_id)
        return kept, kept.ops.get(params.op or "")

    def _check_version(self, kept: Kept, if_version: int | None) -> None:
        if if_version is None or if_version == kept.version:
            return
        text, about = f"the session has version {kept.version}", {}
        if if_version == 0:
            about["status"] = kept.state.status
            if kept.ended:
                error = kept.ended_error()
                text, about = error.message, about | error.data
        raise ConflictError(text, version=kept.version, **about)

    def _check_room(self, kept: Kept, added: int) -> None:
        """Whether further turns fit; the first that does not is an event."""
        try:
            self._check_size(kept, added)
        except TooLargeError:
            if not kept.full:
                kept.full = True
                self._shelf.events.note("session.full", self._shelf.clock.now(), kept)
            raise

    def _check_size(self, kept: Kept, added: int) -> None:
        if len(kept.state.to_json()) + added > SESSION_BYTES:
            raise TooLargeError(f"the session would pass {SESSION_BYTES} bytes")

    def _changed(self, kept: Kept, params: p.Mutation, was_ended: bool, reason: str = COMPLETED) -> bytes:
        self._shelf.changed(kept, was_ended, reason, life=self._is_life(kept, params.epoch))
        return self._done(kept, params.op, b'{"version":%d}' % kept.version)

    def _settle(self, kept: Kept, was_ended: bool, life: bool, reason: str = COMPLETED) -> None:
        self._shelf.changed(kept, was_ended, reason, life=life, reviver=self._caller)

    def _done(self, kept: Kept, op: str | None, result: bytes) -> bytes:
        if op is not None:
            kept.ops[op] = result
            for oldest in [*kept.ops][:-OPS_REMEMBERED]:
                del kept.ops[oldest]
        return result
