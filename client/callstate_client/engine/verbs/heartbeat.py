"""session.heartbeat, of one session or of many: the most frequent request, so its usual case makes few calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from callstate_client.engine.interfaces import Access, Caller, Deferred, InSteps, NotCached, Steps, in_steps
from callstate_client.engine.long_result import Result
from callstate_client.engine.phases import Phase
from callstate_client.engine.rules.authority import check_authority, speaks_for
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.lifecycle import beat, bring_back, tell_timeout
from callstate_client.engine.rules.refusals import ended_error
from callstate_client.engine.sessions.session import Session
from callstate_client.errors import FencedError, InvalidParamsError, StoreUnavailableError, UnreadableError
from callstate_client.protocol.messages import encode_json
from callstate_client.protocol.params import HeartbeatParams

IDS_A_STEP: Final = 100
"""Sessions handled in one step of a heartbeat of many; see InSteps."""

_LIVE: Final = Phase.LIVE
"""Looked up once: a member of an enum takes several times as long as a global name."""

_ALL_ALIVE: Final = b'{"missing":[],"ended":[],"fenced":[]}'


def heartbeat(ctx: Context, caller: Caller, p: HeartbeatParams) -> Result | Deferred | InSteps:
    """{"session_ids":["c1","c2"]}"""
    if (p.session_id is None) == (p.session_ids is None):
        raise InvalidParamsError(
            "expected either `session_id` or `session_ids` at $.params", path="$.params",
            expected="one of session_id and session_ids",
        )  # fmt: skip
    if p.session_id is None:
        return in_steps(_HeartbeatOfMany(ctx, caller).run(p.session_ids or []))
    timeouts: dict[str, float | None] = {}
    if _take_usual(ctx, caller, (p.session_id,), timeouts):
        _take_one(ctx, caller, p.session_id, timeouts)
    return encode_json({"timeouts": timeouts}) if timeouts else b"{}"


def _take_one(ctx: Context, caller: Caller, session_id: str, timeouts: dict[str, float | None]) -> None:
    """Handle the only session, which is not a usual one."""
    session = ctx.find(session_id)
    check_authority(ctx, caller, session, None)
    if session.ended:
        raise ended_error(session)
    _sign_of_life(ctx, caller, session)
    if session.known_timeout_s is not None and speaks_for(ctx, caller, session):
        timeouts[session_id] = tell_timeout(ctx, session)


def _take_usual(
    ctx: Context, caller: Caller, session_ids: Iterable[str], timeouts: dict[str, float | None]
) -> list[str]:
    """Handle the sessions that are hot, live and owned by the caller, as `_sign_of_life` does; returns the others.

    Args:
        timeouts: gets those that the caller does not know yet.
    """
    worker, instance = caller.worker, caller.instance
    sessions, beaten, alive = ctx.table.sessions, ctx.table.unflushed_beats, ctx.liveness.beat
    now_us, now = ctx.clock.wall_us(), ctx.clock.live()
    others: list[str] = []
    for session_id in session_ids:
        session = sessions.get(session_id)
        if (
            session is None or (facts := session.facts).owner != worker or facts.instance != instance
            or session.host is not None or session.doc.status == "ended"
        ):  # fmt: skip
            others.append(session_id)
            continue
        beaten[session_id] = now_us
        if session.beat_us < now_us:  # noqa: PLR1730 - `max` is a call
            session.beat_us = now_us
        session.restored = False
        phase = alive(session, now, facts.heartbeat_timeout_s)
        if phase is not _LIVE:
            bring_back(ctx, caller, session, phase, now_us)
        if session.known_timeout_s is not None:
            timeouts[session_id] = tell_timeout(ctx, session)
    return others


def _sign_of_life(ctx: Context, caller: Caller, session: Session) -> None:
    if not speaks_for(ctx, caller, session):
        return  # no error for an operator, but while the owner is connected only its own heartbeats count
    now_us = ctx.clock.wall_us()
    ctx.table.unflushed_beats[session.id] = now_us
    if session.id in ctx.table.sessions and session.host is None:
        beat(ctx, caller, session, now_us, ctx.clock.live())
    else:  # of another host or program and not taken over yet, or there was no room for it: not watched here
        session.beat_us = now_us


class _HeartbeatOfMany:
    """A heartbeat of many sessions, each handled by itself; those not hot once they have been read, together."""

    def __init__(self, ctx: Context, caller: Caller) -> None:
        self._ctx = ctx
        self._caller = caller
        self._lists: dict[str, list[str]] = {"missing": [], "ended": [], "fenced": []}
        self._unreadable: list[str] = []
        self._timeouts: dict[str, float | None] = {}
        self._failure: Exception | None = None
        self._waiting = 0
        """How many are being read."""
        self._done: Callable[[bytes | Exception], None] | None = None
        """Gets the result once that is zero."""

    def run(self, session_ids: list[str]) -> Steps:
        """Handle them in steps."""
        for start in range(0, len(session_ids), IDS_A_STEP):
            if start:
                yield
            ids, guard = session_ids[start : start + IDS_A_STEP], self._ctx.guard
            if guard is not None:
                ids = self._permitted(ids, guard)
            for session_id in _take_usual(self._ctx, self._caller, ids, self._timeouts):
                self._take(session_id)
        if not self._waiting:
            return self._outcome()
        listed_bytes = sum(map(len, session_ids))  # at most: all of them are missing
        return Deferred(self._start, listed_bytes, self._waiting)

    def _outcome(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        return self._result()

    def _permitted(self, session_ids: list[str], guard: Access) -> list[str]:
        """Put those in memory that are other users' with the fenced ones; returns the others."""
        user, sessions = self._caller.user, self._ctx.table.sessions
        if guard.sees_all(user):
            return session_ids
        left: list[str] = []
        for session_id in session_ids:
            session = sessions.get(session_id)
            if session is None or guard.may_beat(user, session.facts):
                left.append(session_id)
            else:
                self._lists["fenced"].append(session_id)
        return left

    def _take(self, session_id: str) -> None:
        """Handle any other one."""
        ctx, caller = self._ctx, self._caller
        try:
            session = ctx.lookup(session_id)
            if session is None:
                self._lists["missing"].append(session_id)
                return
            if ctx.guard is not None and not ctx.guard.may_beat(caller.user, session.facts):
                raise FencedError("it belongs to another user")
            check_authority(ctx, caller, session, None)
        except NotCached:
            self._waiting += 1
            ctx.host.when_known(caller, session_id, partial(self._known, session_id))
        except InvalidParamsError:  # not an id that a session could have
            self._lists["missing"].append(session_id)
        except FencedError:
            self._lists["fenced"].append(session_id)
        except UnreadableError:
            self._unreadable.append(session_id)
        else:
            if session.ended:
                self._lists["ended"].append(session_id)
            else:
                _sign_of_life(ctx, caller, session)
                if session.known_timeout_s is not None and speaks_for(ctx, caller, session):
                    self._timeouts[session_id] = tell_timeout(ctx, session)

    def _known(self, session_id: str) -> None:
        """It was read from the store."""
        try:
            self._take(session_id)
        except StoreUnavailableError as error:
            self._failure = error.with_traceback(None)  # which has a frame that has `self`
        self._waiting -= 1
        if not self._waiting and self._done is not None:
            done, self._done = self._done, None  # which has what has `self`
            done(self._failure or self._result())

    def _start(self, done: Callable[[bytes | Exception], None]) -> None:
        """Pass the result on once all have been read."""
        self._done = done

    def _result(self) -> bytes:
        """The sessions for which the heartbeat did not count, and timeouts that the caller does not know yet."""
        if not (self._timeouts or self._unreadable or any(self._lists.values())):
            return _ALL_ALIVE
        result: dict[str, Any] = {**self._lists}
        if self._unreadable:
            result["unreadable"] = self._unreadable
        if self._timeouts:
            result["timeouts"] = self._timeouts
        return encode_json(result)
