"""The daemon's verbs over a dict: what MemoryStore asks in place of a daemon. A request in, a reply out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from callstate_client import ids, patches
from callstate_client import protocol as p
from callstate_client.errors import (
    ConflictError,
    DocumentError,
    FencedError,
    InvalidParamsError,
    MethodNotFoundError,
    SessionNotFoundError,
    TooLargeError,
)
from callstate_client.history import Turn, decode_turn
from callstate_client.model import SessionState, Status, encode_members
from callstate_client.shelf import COMPLETED, OPS_REMEMBERED, Kept, Shelf
from callstate_client.times import ZERO_TIME, format_time, parse_time

SESSION_BYTES: Final = 8 * 1024 * 1024
"""`limits.session_bytes` of a daemon, by default."""

PAGE: Final = 1000
"""Sessions a page where the request does not say."""


class _Presence(msgspec.Struct):
    history: Raw | UnsetType = UNSET


def wrong(path: str, expected: str) -> InvalidParamsError:
    """The error for a param that is not what belongs there."""
    return InvalidParamsError(f"expected {expected} at {path}", path=path, expected=expected)


def check_word(text: str | None, path: str, least: int = 0) -> None:
    """A word of at most 64 bytes."""
    if text is not None and not least <= len(text.encode()) <= ids.MAX_NAME_BYTES:
        raise wrong(path, f"{least} to {ids.MAX_NAME_BYTES} bytes")


def check_labels(labels: dict[str, str]) -> None:
    """Labels within their bounds."""
    if len(labels) > ids.MAX_LABELS:
        raise wrong("$.params.labels", f"at most {ids.MAX_LABELS}")
    for name, value in labels.items():
        check_word(name, f"$.params.labels.{name}", least=1)
        if len(value.encode()) > ids.MAX_LABEL_VALUE_BYTES:
            raise wrong(f"$.params.labels.{name}", f"at most {ids.MAX_LABEL_VALUE_BYTES} bytes")


def check_state(state: SessionState) -> None:
    """What the daemon checks at its door, beyond the types."""
    if not ids.is_session_id(state.id):
        raise wrong("$.params.session.id", ids.SESSION_ID_RULE)
    for name in ("provider", "direction", "status"):
        check_word(getattr(state, name), f"$.params.session.{name}")
    try:
        _ = state.created_at, state.updated_at
        for turn in state.history:
            check_turn(turn)
    except DocumentError as error:
        raise InvalidParamsError(str(error), path="$.params.session", expected="a session") from error
    except ValueError as error:
        raise wrong("$.params.session", "RFC 3339 times") from error


def check_turn(turn: Turn) -> None:
    """What the daemon checks of a turn, beyond the types."""
    check_word(turn.role, "$.params.turn.role")
    try:
        _ = turn.timestamp
    except ValueError as error:
        raise wrong("$.params.turn.timestamp", "RFC 3339 time") from error


class Engine:
    """Answers for the sessions of one shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
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
            "server.ping": (p.NoParams, lambda _: b"{}"),
            "server.info": (p.NoParams, self._info),
            "server.stats": (p.NoParams, self._stats),
            "server.flush": (p.FlushParams, self._flush),
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
            raise InvalidParamsError(str(error), path="$.params") from error
        return b'{"jsonrpc":"2.0","id":0,"result":%b}' % run(params)

    # -- reading ------------------------------------------------------------------------------------------

    def _load(self, params: p.LoadParams) -> bytes:
        history = params.history
        if isinstance(history, str) and history not in ("all", "none"):
            raise wrong("$.params.history", "'all', 'none' or a number")
        return self._loaded(self._shelf.find(params.session_id), history)

    def _loaded(self, kept: Kept, history: str | int) -> bytes:
        state = kept.state
        members = state.to_members(with_history=False)
        if not kept.ended:
            members["updated_at"] = format_time(max(state.updated_at, kept.beat_at))
        first = 0
        if history != "none":
            parts = state.history.parts()
            if isinstance(history, int):
                first = max(0, len(parts) - history)
            members["history"] = parts[first:]
        result = {
            "session": members,
            "history_from": first,
            "turn_count": len(state.history),
            "version": kept.version,
            "epoch": 0,
            "labels": kept.labels,
        }
        if kept.ended:
            result["ended_reason"] = kept.ended_reason
        return encode_members(result)

    def _page(self, name: str, kept: list[Kept], values: list[Any], limit: int) -> bytes:
        result: dict[str, Any] = {name: values}
        if len(kept) > limit:
            result["next_cursor"] = str(kept[limit - 1].seq)
        return encode_members(result)

    def _behind(self, cursor: str | None) -> Any:
        if cursor is not None and not cursor.isdigit():
            raise wrong("$.params.cursor", "a next_cursor")
        return self._shelf.behind(int(cursor or 0))

    def _list_active(self, params: p.ListActiveParams) -> bytes:
        limit = params.limit or PAGE
        if params.scope not in ("host", "all"):
            raise wrong("$.params.scope", "'host' or 'all'")
        page = list(islice((kept for kept in self._behind(params.cursor) if not kept.ended), limit + 1))
        return self._page("session_ids", page, [kept.state.id for kept in page[:limit]], limit)

    def _list(self, params: p.ListParams) -> bytes:
        limit = params.limit or PAGE
        since = None if params.ended_since is None else parse_time(params.ended_since)
        labels = (params.labels or {}).items()

        def wanted(kept: Kept) -> bool:
            state = kept.state
            return (
                params.status in (None, state.status)
                and params.provider in (None, state.provider)
                and params.call_id in (None, state.call_id)
                and params.owner in (None, "")
                and (since is None or (kept.ended_at is not None and kept.ended_at >= since))
                and labels <= kept.labels.items()
            )

        page = list(islice((kept for kept in self._behind(params.cursor) if wanted(kept)), limit + 1))
        return self._page("sessions", page, [Raw(self._loaded(kept, "none")) for kept in page[:limit]], limit)

    def _heartbeat(self, params: p.HeartbeatParams) -> bytes:
        if (params.session_id is None) == (params.session_ids is None):
            raise wrong("$.params", "one of session_id and session_ids")
        if params.session_id is not None:
            kept = self._shelf.find(params.session_id)
            if kept.ended:
                raise kept.ended_error()
            self._shelf.beat(kept)
            return b"{}"
        result = p.HeartbeatResult(missing=[], ended=[])
        for session_id in params.session_ids or []:
            found = self._shelf.get(session_id)
            if found is None:
                result.missing.append(session_id)
            elif found.ended:
                result.ended.append(session_id)
            else:
                self._shelf.beat(found)
        return p.encode_json(result)

    def _info(self, _: p.NoParams) -> bytes:
        return p.encode_json(
            {
                "name": "memory",
                "protocol": p.PROTOCOL_VERSION,
                "features": [],
                "store": "memory",
                "durability": "none",
                "heartbeat_timeout_s": self._shelf.heartbeat_timeout_s,
            }
        )

    def _stats(self, _: p.NoParams) -> bytes:
        kept = self._shelf.all()
        by_status = Counter(each.state.status for each in kept)
        suspects = sum(each.suspect for each in kept)
        return p.encode_json({"sessions": dict(by_status), "suspects": suspects, "connections": 0, "dirty": 0})

    def _flush(self, params: p.FlushParams) -> bytes:
        count = len(self._shelf.all() if params.session_ids is None else params.session_ids)
        return p.encode_json(p.FlushResult(flushed=count, unflushed=0))

    # -- writing ------------------------------------------------------------------------------------------

    def _save(self, params: p.SaveParams) -> bytes:
        try:
            state = SessionState.from_json(params.session)
        except DocumentError as error:
            raise InvalidParamsError(str(error), path="$.params.session", expected="a session") from error
        check_state(state)
        check_word(params.op, "$.params.op", least=1)
        if params.labels is not None:
            check_labels(params.labels)
        if len(params.session) > SESSION_BYTES:
            raise TooLargeError(f"the session would pass {SESSION_BYTES} bytes")
        kept = self._shelf.get(state.id)
        if kept is None:
            if params.if_version:
                raise ConflictError("there is no such session", version=0)
            if params.epoch is not None:
                raise SessionNotFoundError(f"no session {state.id}")
            kept, was_ended = self._shelf.create(state), False
        else:
            done = kept.ops.get(params.op or "")
            if done is not None:
                return done
            self._check_version(kept, params.if_version)
            self._check_writable(kept, params.epoch)
            was_ended = kept.ended
            if msgspec.json.decode(params.session, type=_Presence).history is UNSET:
                state.history = kept.state.history
            kept.state = state
        if params.labels is not None:
            kept.labels = params.labels
        if params.heartbeat_timeout_s is not None:
            kept.heartbeat_timeout_s = params.heartbeat_timeout_s
        if params.max_duration_s is not None:
            kept.max_duration_s = params.max_duration_s
        self._shelf.changed(kept, was_ended)
        result = {"version": kept.version, "updated_at": format_time(kept.state.updated_at)}
        return self._done(kept, params.op, p.encode_json(result))

    def _delete(self, params: p.DeleteParams) -> bytes:
        kept = self._shelf.get(params.session_id)
        if kept is not None:
            self._check_epoch(params.epoch)
            self._shelf.remove(params.session_id)
        return b"{}"

    def _add_turn(self, params: p.AddTurnParams) -> bytes:
        if (params.turn is UNSET) == (params.turns is UNSET):
            raise wrong("$.params", "one of turn and turns")
        kept, done = self._repeatable(params)
        if done is not None:
            return done
        self._check_writable(kept, params.epoch)
        parts = [params.turn] if isinstance(params.turn, Raw) else self._parts(params.turns)
        try:
            turns = [decode_turn(part) for part in parts]
        except DocumentError as error:
            raise InvalidParamsError(str(error), path="$.params.turns", expected="turns") from error
        for turn in turns:
            check_turn(turn)
            if turn._timestamp == ZERO_TIME:
                turn.timestamp = self._shelf.clock.now()
        self._check_size(kept, sum(len(part) for part in parts))
        for turn in turns:
            kept.state.append_turn(turn)
        self._shelf.changed(kept, kept.ended)
        result = {"version": kept.version, "turn_count": len(kept.state.history)}
        return self._done(kept, params.op, p.encode_json(result))

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
        if not kept.state.history:
            raise ConflictError("the session has no turn to amend")
        before = kept.state.history[-1]
        try:
            check_turn(patches.patch_last_turn(kept.state, msgspec.json.decode(params.set)))
        except DocumentError as error:
            raise InvalidParamsError(str(error), path="$.params.set", expected="a turn") from error
        except InvalidParamsError:
            kept.state.history[-1] = before
            raise
        return self._changed(kept, params.op, kept.ended)

    def _record_interruption(self, params: p.RecordInterruptionParams) -> bytes:
        kept, done = self._repeatable(params)
        if done is not None:
            return done
        self._check_writable(kept, params.epoch)
        kept.state.record_interruption()
        return self._changed(kept, params.op, kept.ended)

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
        patched = kept.state.copy()
        try:
            patches.patch_state(patched, changes)
        except DocumentError as error:
            raise InvalidParamsError(str(error), path="$.params.set", expected="a session") from error
        check_state(patched)
        was_ended, kept.state = kept.ended, patched
        return self._changed(kept, params.op, was_ended)

    def _end(self, params: p.EndParams) -> bytes:
        check_word(params.reason, "$.params.reason", least=1)
        kept, done = self._repeatable(params)
        if done is not None:
            return done
        if kept.ended:  # a repeat changes nothing
            return b'{"version":%d}' % kept.version
        self._check_epoch(params.epoch)
        kept.state.status = Status.ENDED
        return self._changed(kept, params.op, was_ended=False, reason=params.reason or COMPLETED)

    # -- shared -------------------------------------------------------------------------------------------

    def _repeatable(self, params: p.Mutation) -> tuple[Kept, bytes | None]:
        """The session, and the result where this very mutation was done before."""
        check_word(params.op, "$.params.op", least=1)
        kept = self._shelf.find(params.session_id)
        return kept, kept.ops.get(params.op or "")

    def _check_epoch(self, epoch: int | None) -> None:
        if epoch:  # nobody owns what is in memory: its epoch is 0
            raise FencedError("the session's epoch is 0", epoch=0)

    def _check_writable(self, kept: Kept, epoch: int | None) -> None:
        self._check_epoch(epoch)
        if kept.reaped:
            raise kept.ended_error()

    def _check_version(self, kept: Kept, if_version: int | None) -> None:
        if if_version is not None and if_version != kept.version:
            raise ConflictError(f"the session has version {kept.version}", version=kept.version)

    def _check_size(self, kept: Kept, added: int) -> None:
        if len(kept.state.to_json()) + added > SESSION_BYTES:
            raise TooLargeError(f"the session would pass {SESSION_BYTES} bytes")

    def _changed(self, kept: Kept, op: str | None, was_ended: bool, reason: str = COMPLETED) -> bytes:
        self._shelf.changed(kept, was_ended, reason)
        return self._done(kept, op, b'{"version":%d}' % kept.version)

    def _done(self, kept: Kept, op: str | None, result: bytes) -> bytes:
        if op is not None:
            kept.ops[op] = result
            for oldest in [*kept.ops][:-OPS_REMEMBERED]:
                del kept.ops[oldest]
        return result
