"""Access control of one daemon: the policy applied to requests, refusals, and the audit trail.

Engine and server ask it (callstate_client.engine.interfaces.Access). Who is at the other end comes with the
caller, so there is no I/O but the log. A refusal names who and what, and never whose a session is, or anything else
of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import WeakSet

from callstate_client.engine.interfaces import Caller
from callstate_client.engine.rules.context import Context
from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.user import UNKNOWN, User
from callstate_client.errors import ForbiddenError, UnreadableError
from callstate_client.protocol.ids import is_session_id
from callstate_sidecar.access.needs import NEEDS, Need
from callstate_sidecar.access.policy import Policy
from callstate_sidecar.logs.event_log import EventLog

log = EventLog(__name__)

_SESSION: Final = Need.SESSION

REPEATED_S: Final = 60.0
"""The refusals of one user are logged once in this time, seconds; how many there were is logged with the next."""

MAX_USERS: Final = 1024
"""Users whose refusals are counted: one who has a range of uids (subuid(5)) must not fill the memory."""

IDS_LOGGED: Final = 10
"""Session ids named in one line of the audit trail."""

_SHOWING: Final = frozenset({"session.list", "session.list_active", "events.subscribe"})
"""Verbs that show an operator the sessions of all users; that is noted with the first page that a
connection asks for, whatever its cursor."""

_OFTEN: Final = frozenset({"server.flush"})
"""Operators' verbs that workers use as well where nothing is restricted, perhaps at the end of each call."""

Audit = Callable[[], None]


class AccessControl:
    """What users may do.

    Args:
        policy: the rules.
        clock: monotonic seconds.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        self.policy = policy
        self.restricts = policy.restricts
        self._clock = clock
        self._refused: OrderedDict[int, tuple[float, int]] = OrderedDict()
        """By uid: when a refusal was logged, and how many there were since."""
        self._pages: WeakSet[Caller] = WeakSet()
        """Operators that have listed the sessions of all users: their further pages need no further note."""

    def apply(self, policy: Policy) -> None:
        """Follow these rules from now on."""
        self.policy, self.restricts = policy, policy.restricts

    # -- connecting -----------------------------------------------------------------------------------------

    def refusal_to_connect(self, user: User) -> ForbiddenError | None:
        """Why this user may not connect; None if it may."""
        if self.policy.admits(user):
            return None
        return self._refusal(user, "connect", "access.allow does not name it")

    def is_operator(self, user: User) -> bool:
        """Whether connections are kept in reserve for this user."""
        return self.policy.is_operator(user)

    # -- requests -------------------------------------------------------------------------------------------

    def admit(self, ctx: Context, caller: Caller, method: str, params: Any) -> Audit | None:
        """Refuse a request that its user may not send.

        Returns:
            what is to be called once the request has succeeded: it notes in the audit trail that an operator has
            used its right; None: that is not what permits the request.

        Raises:
            ForbiddenError: it is refused.
            NotCached, WireError: a session that it names can't be looked up.
        """
        need = NEEDS[method]
        if need is _SESSION:  # the most frequent requests, and usually the creator's own
            session = ctx.table.sessions.get(params.session_id)
            if session is not None and session.facts.uid == caller.user.uid != UNKNOWN:
                return None
            return self._admit_session(ctx, caller, method, params.session_id)
        if method in _SHOWING and not (getattr(params, "cursor", None) and caller in self._pages):
            return self._audit_of_all(caller, method)
        if need is Need.OPERATOR:
            return self._operate(caller, method, getattr(params, "session_id", ""))
        if need is Need.SESSIONS:
            return self._admit_sessions(ctx, caller, method, params.session_ids)
        if need in (Need.CLAIM, Need.WORKER):
            self._check_worker(ctx, caller, method, params.worker_id)
        return self._admit_claim(ctx, caller, method, params) if need is Need.CLAIM else None

    def _admit_claim(self, ctx: Context, caller: Caller, method: str, params: Any) -> Audit | None:
        if params.steal:
            return self._operate(caller, method, params.session_id)
        return self._admit_session(ctx, caller, method, params.session_id)

    def _admit_session(self, ctx: Context, caller: Caller, method: str, session_id: str | None) -> Audit | None:
        if session_id is None:
            return None  # a heartbeat of several, which passes over those of others
        session = _found(ctx, session_id)
        return None if session is None else self._admit(caller, method, session)

    def _admit_sessions(self, ctx: Context, caller: Caller, method: str, ids: list[str] | None) -> Audit | None:
        if ids is None:
            return self._operate(caller, method, "")
        known = [session for session in map(ctx.table.sessions.get, ids) if session is not None]
        others = [each.id for each in known if self._admit(caller, method, each) is not None]
        return self._audit(caller, method, others) if others else None

    def _admit(self, caller: Caller, method: str, session: Session) -> Audit | None:
        """Refuse a session of another user."""
        user, facts = caller.user, session.facts
        if self.policy.owns(user, facts.uid, facts.gid):
            return None
        if not self.policy.is_operator(user):
            raise self._refusal(user, method, self._others(), session.id)
        if caller.worker and facts.owner == caller.worker:
            return None  # it has claimed it, which is in the audit trail
        return self._audit(caller, method, [session.id])

    def admit_save(self, caller: Caller, session_id: str, session: Session | None) -> None:
        """Refuse a save over a session of another user, and one that would create a session of nobody.

        Raises:
            ForbiddenError: it is refused.
        """
        if session is not None:
            audit = self._admit(caller, "session.save", session)
            if audit is not None:
                audit()
        elif not self.policy.may_create(caller.user):
            why = "its user is not known here, and an unknown user owns no sessions"
            raise self._refusal(caller.user, "session.save", why, session_id)

    def _check_worker(self, ctx: Context, caller: Caller, method: str, worker_id: str) -> None:
        """Refuse the worker id of another user."""
        user, uid = caller.user, ctx.registry.uid_of(worker_id)
        if self.policy.share != "all" and uid not in (UNKNOWN, user.uid) and not self.policy.is_operator(user):
            raise self._refusal(user, f"{method} as {worker_id}", "another user has registered this worker id")

    # -- filters --------------------------------------------------------------------------------------------

    def sees_all(self, user: User) -> bool:
        """Whether every session is shown to this user."""
        return self.policy.share == "all" or self.policy.is_operator(user)

    def sees(self, user: User, uid: int, gid: int) -> bool:
        """Whether a session of this creator is shown to this user."""
        return self.policy.owns(user, uid, gid) or self.policy.is_operator(user)

    def may_beat(self, user: User, facts: Facts) -> bool:
        """Whether heartbeats of this user count for a session; if not, that is logged as a refusal."""
        if self.sees(user, facts.uid, facts.gid):
            return True
        self._refusal(user, "session.heartbeat", self._others())
        return False

    # -- operators ------------------------------------------------------------------------------------------

    def check_operator(self, caller: Caller, what: str) -> None:
        """Refuse what is an operator's alone whatever is shared.

        Raises:
            ForbiddenError: the caller is none.
        """
        if not self.policy.is_operator(caller.user):
            raise self._refusal(caller.user, what, "that is for operators")

    def _operate(self, caller: Caller, method: str, session_id: str) -> Audit:
        if not self.policy.is_operator(caller.user):
            raise self._refusal(caller.user, method, "that is for operators", session_id)
        return self._audit(caller, method, [session_id] if session_id else [])

    def _audit_of_all(self, caller: Caller, method: str) -> Audit | None:
        """What notes that an operator is shown the sessions of others."""
        if self.policy.share == "all" or not self.policy.is_operator(caller.user):
            return None
        return partial(self._note_of_all, caller, method)

    def _note_of_all(self, caller: Caller, method: str) -> None:
        self._pages.add(caller)
        self._note(caller, method, [], must=True)

    def _audit(self, caller: Caller, method: str, session_ids: list[str]) -> Audit:
        return partial(self._note, caller, method, session_ids, must=True)

    def note(self, caller: Caller, method: str, session_id: str) -> None:
        """Note what only an operator could do if access were restricted. Where it is not, anybody could fill the
        log, so lines like this are as limited as others; also those of operators, for what programs do often."""
        must = method not in _OFTEN and self.policy.is_operator(caller.user)
        self._note(caller, method, [session_id] if session_id else [], must=must)

    @staticmethod
    def _note(caller: Caller, method: str, session_ids: list[str], *, must: bool) -> None:
        named = ", ".join(session_ids[:IDS_LOGGED])
        if len(session_ids) > IDS_LOGGED:
            named += f" and {len(session_ids) - IDS_LOGGED} more"
        who = f"{caller.user}, worker {caller.worker}" if caller.worker else str(caller.user)
        what = f"{method} {named}" if named else method
        fields = {"uid": caller.user.uid, "method": method, "session_id": named}
        log.info("operator_action", "operator action by %s: %s", who, what, must=must, **fields)

    def _others(self) -> str:
        return f"it belongs to another user (access.share = {self.policy.share})"

    # -- refusals -------------------------------------------------------------------------------------------

    def _refusal(self, user: User, method: str, why: str, session_id: str = "") -> ForbiddenError:
        what = f"{method} {session_id}" if session_id and is_session_id(session_id) else method
        self._log_refusal(user, what, why)
        uid = None if user.uid == UNKNOWN else user.uid
        return ForbiddenError(f"{user} may not {what}: {why}", who=str(user), what=what, uid=uid)

    def _log_refusal(self, user: User, what: str, why: str) -> None:
        now = self._clock()
        logged, count = self._refused.get(user.uid, (0.0, -1))
        if count >= 0 and now - logged < REPEATED_S:
            self._refused[user.uid] = logged, count + 1
            return
        self._refused[user.uid] = now, 0
        self._refused.move_to_end(user.uid)
        if len(self._refused) > MAX_USERS:
            self._refused.popitem(last=False)
        more = f" ({count} more were refused since the last line)" if count > 0 else ""
        log.warning("access_refused", "%s may not %s: %s%s", user, what, why, more, uid=user.uid)

    def describe(self, user: User) -> dict[str, Any]:
        """What a user is told about its own access, in `server.info`."""
        policy = self.policy
        if not policy.restricts and policy.allow is None:
            return {}
        uid = None if user.uid == UNKNOWN else user.uid
        return {"access": {"share": policy.share, "uid": uid, "operator": policy.is_operator(user)}}


def _found(ctx: Context, session_id: str) -> Session | None:
    """The session, as far as whose it is; None if there is none, which the verb will say."""
    try:
        return ctx.lookup(session_id)
    except UnreadableError:
        return ctx.unreadable(session_id)
