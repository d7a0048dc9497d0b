"""Reconciliation: what to do when the store refused a write because it has another state. No I/O in here.

That happens after a crash or a restored backup (the journal is older than the store), after a save that was
accepted while the store was down (nobody could check what it had), when a reply was lost, and when another host has
claimed the session. Write-behind reads what the store has and calls `settle`, which decides:

- **The store's state came from this host** in the same epoch, and only the reply was lost: ours is written again.
- **The store's state is older otherwise**: ours is raised above it, and is written again.
- **Both have changed since a state that both know**, the merge base: they are merged (engine/sessions/merging.py),
  raised above the store's version, and written again. This is logged, with an event `recovered`.
- **Another host had the session in between**, and this one has taken it back, but the reply was lost or the journal
  did not take it: the store's state counts, and ours is set aside.
- **The store's state belongs to another host**: it counts. Ours is set aside, in memory and journal, with an event
  `fenced`, and the session is known as the other host's from then on (engine/rules/handoff.py).
- **The store's state is newer and of no host**: it counts. Ours is quarantined: it stays in memory and journal,
  with an event `fenced`.
- **The store has a tombstone newer than what the journal knows**: the session was deleted, and is dropped here too.
- **Other software has changed the document**, which does not update meta: if ours has no change of its own, theirs
  is taken as the next version, with an event `recovered`, or `ended`; else ours is written, and the store sets
  theirs aside. A call that has ended here stays ended.
- **Ours is a deletion**: it is raised above the store's version, unless the session there belongs to another host,
  with an event `fenced`.

Every change made here is logged to the journal like any other, before write-behind writes the session again.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import starmap

from callstate_client.engine.events import FOREIGN, MERGED, NEWER, SUPERSEDED
from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.reasons import OPERATOR
from callstate_client.engine.rules import handoff
from callstate_client.engine.rules.context import Context
from callstate_client.engine.rules.lifecycle import retime
from callstate_client.engine.sessions.merging import merge, take_document
from callstate_client.engine.sessions.records import HistoryMode, MergeBase, OpResult
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.store_form import placeholder_of, session_in_steps
from callstate_client.engine.sessions.stored import ENDED, StoredMeta, StoredSession
from callstate_client.engine.sessions.writes import Write
from callstate_client.engine.table.tombstones import Tombstone
from callstate_client.engine.user import UNKNOWN, User
from callstate_client.errors import UnreadableError
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.metrics import Metrics
from callstate_sidecar.stores.hosts import is_later_term

log = EventLog(__name__)


class Reconciler:
    """Decides between the hot state of a session and the store's.

    Args:
        host_id: this host.
        metrics: counts what other hosts have taken over.
    """

    def __init__(self, ctx: Context, host_id: str, metrics: Metrics) -> None:
        self._ctx = ctx
        self._metrics = metrics
        self._host_id = host_id
        self.in_doubt: set[str] = set()
        """Gets the sessions that another host was found to have: this one may have asked for them since."""

    def read(
        self, session_id: str, stored: StoredSession | None
    ) -> Generator[None, None, Session | UnreadableError | None]:
        """The session that the store has, read in steps if it is long, or why it can't be read."""
        if stored is None:
            return None
        try:
            return (yield from session_in_steps(session_id, stored, self._host_id))
        except UnreadableError as error:
            return error

    def settle(self, write: Write, stored: StoredSession | None, theirs: Session | UnreadableError | None) -> bool:
        """Change the hot session so that the store will accept it, if it is ours.

        Args:
            write: the write that the store refused.
            stored: what the store has.
            theirs: the same, as `read` returns it.

        Returns:
            True: write the session again. False: the store's state counts, and ours is to be quarantined.
        """
        session = self._ctx.table.sessions.get(write.session_id)
        meta = None if stored is None else stored.meta
        if session is None:
            return self._settle_deletion(write.session_id, stored)
        if meta is not None and meta.host not in ("", self._host_id) and not _is_new_call(session, meta):
            if (
                session.unverified or meta.epoch >= session.facts.epoch
            ):  # else it was taken back since that was read
                self.lose(session, meta.host, meta.epoch)
            return True
        foreign = b"" if stored is None else stored.foreign_stamp
        if isinstance(theirs, UnreadableError):
            if not foreign:
                return False  # it can't be read, so it can't be merged
            self._raise_above(session, 0, -1)
            return True
        is_unchanged = session.version == session.stored_version and not session.unverified
        if theirs is not None and foreign and theirs.host is None and is_unchanged:
            self._settle_foreign(session, theirs, foreign)
        elif theirs is None:
            self._settle_no_document(session, meta)
        elif session.unverified and (
            not self._may_merge(session, theirs)  # whoever saved under its id meanwhile must not see its turns
            or (theirs.host == "" and theirs.version > session.doc.updated_us)
        ):
            return False  # it belongs to another user, or is newer and of no host, as the Go package writes it
        elif _is_taken_back(session, theirs):
            self._take_back(session, theirs)
        elif session.base is None or _is_known(session, session.base, theirs):
            self._settle_known(session, theirs)
        else:
            self._merge(session, session.base, theirs)
            session.seen_stamp = foreign or session.seen_stamp
        return True

    def _settle_known(self, session: Session, theirs: Session) -> None:
        """Ours takes the store's state into account."""
        is_same_epoch = theirs.facts.epoch == session.facts.epoch
        if theirs.host is None and is_same_epoch and theirs.version <= session.version:
            self._continue_from(session)
        else:
            self._raise_above(session, theirs.version, -1 if is_same_epoch else theirs.facts.epoch)

    def may_take_history(self, write: Write, stored: StoredSession | None, theirs: Session) -> bool:
        """Whether `settle` may give the hot session the history that the store has."""
        session = self._ctx.table.sessions.get(write.session_id)
        if session is None or (theirs.host not in (None, "") and not session.unverified):
            return False
        if (stored is not None and stored.foreign_stamp) or _is_taken_back(session, theirs):
            return True
        return session.base is not None and session.base.turns >= 0 and not _is_known(session, session.base, theirs)

    def _may_merge(self, session: Session, theirs: Session) -> bool:
        """Whether the user that created ours could have seen what the store has."""
        guard, ours = self._ctx.guard, session.facts
        creator = User(ours.uid, ours.gid, frozenset({ours.gid} - {UNKNOWN}))
        return guard is None or guard.sees(creator, theirs.facts.uid, theirs.facts.gid)

    # -- deletions ----------------------------------------------------------------------------------------------

    def _settle_deletion(self, session_id: str, stored: StoredSession | None) -> bool:
        """Raise our tombstone above what the store has, unless that belongs to another host."""
        tombstone = self._ctx.table.tombstones.pending.get(session_id)
        meta = None if stored is None else stored.meta
        if tombstone is None:
            return True  # created again and deleted meanwhile: there is nothing left to write
        if stored is not None and meta is not None and meta.host != self._host_id:
            if meta.epoch >= tombstone.epoch:  # as above
                self.give_up_deletion(session_id, stored, meta.host)
            return True
        if meta is not None:
            version, epoch = max(tombstone.version, meta.version + 1), max(tombstone.epoch, meta.epoch)
            self._ctx.tx.raise_tombstone(session_id, Tombstone(version, epoch, tombstone.ops))
        return True

    def give_up_deletion(self, session_id: str, stored: StoredSession, host: str) -> None:
        """Another host has the session, as `stored`, or has deleted it too."""
        ctx = self._ctx
        ctx.tx.give_up_deletion(session_id)
        self.in_doubt.add(session_id)
        if stored.meta is None or not stored.meta.deleted:
            log.error(
                "deletion_too_late",
                "session %s, deleted here, now belongs to host %s and lives on there",
                session_id,
                host,
                session_id=session_id,
                host=host,
            )
            theirs = placeholder_of(session_id, stored, self._host_id)  # its document does not matter
            ctx.events.note("fenced", ctx.now_us(), theirs, reason=SUPERSEDED)

    def _settle_no_document(self, session: Session, meta: StoredMeta | None) -> None:
        """The store has no document: nothing at all, or a tombstone, perhaps of a deletion that the journal
        lacks."""
        base = session.base
        if meta is None:
            self._raise_above(session, 0, -1)
        elif (
            base is not None and 0 < base.version < meta.version
            and base.version == session.version and meta.host == self._host_id
        ):  # fmt: skip
            log.warning(
                "session_deleted_since", "session %s was deleted after the journal's last record of it: dropped",
                session.id, session_id=session.id,
            )  # fmt: skip
            self._forget(session, meta.version, NEWER)
        else:
            is_ours = meta.host == self._host_id and meta.epoch == session.facts.epoch
            self._raise_above(session, meta.version, -1 if is_ours else meta.epoch)

    def drop_deleted(self, session: Session) -> None:
        """Other software has deleted a session that has no change of ours since the store had it."""
        log.warning(
            "foreign_deletion", "session %s: other software has deleted it in the store: dropped", session.id,
            session_id=session.id,
        )  # fmt: skip
        self._forget(session, session.version, "deleted")

    def _forget(self, session: Session, version: int, reason: str) -> None:
        ctx = self._ctx
        ctx.events.note("deleted", ctx.now_us(), session, reason=reason)
        ctx.tx.forget(session, version)
        ctx.liveness.forget(session)
        ctx.decide_departure(session.id)

    # -- sessions -----------------------------------------------------------------------------------------------

    def _settle_foreign(self, session: Session, theirs: Session, stamp: bytes) -> None:
        """Other software has changed the document that we wrote, and ours has no change since."""
        if session.ended and not theirs.ended:
            self._raise_above(session, theirs.version, -1)
            return
        ctx, now_us = self._ctx, self._ctx.now_us()
        before = session.doc.status
        ctx.tx.change(session)
        take_document(session, theirs)
        session.written = theirs.written
        session.rise_above(theirs.version, -1, now_us)
        session.seen_stamp = stamp
        if session.ended and before != session.doc.status:
            session.change_facts(status_before=before, ended_reason=OPERATOR, ended_us=now_us)
            ctx.lift(session)
            ctx.liveness.keep(session, ctx.clock.live())
            ctx.events.note("ended", now_us, session, reason=OPERATOR)
        else:
            ctx.events.note("recovered", now_us, session, reason=FOREIGN)
        ctx.tx.log(session, None, ctx.clock.mono())
        log.warning(
            "foreign_write_taken",
            "session %s: other software has changed it in the store; its change was taken over",
            session.id,
            session_id=session.id,
        )

    def lose(self, session: Session, host: str, epoch: int) -> None:
        """Another host has this session in the store."""
        log.error(
            "session_lost", "session %s now belongs to host %s (epoch %d); what was acknowledged here is set aside",
            session.id, host, epoch, session_id=session.id, host=host,
        )  # fmt: skip
        handoff.lose(self._ctx, session, host)
        self._metrics.count("sessions_lost")
        self.in_doubt.add(session.id)

    def _take_back(self, session: Session, theirs: Session) -> None:
        """Ours is what another host had taken, and theirs what the store has given back to this host since."""
        self.lose(session, self._host_id, theirs.facts.epoch)
        if not theirs.ended:
            handoff.adopt(self._ctx, theirs, "")

    def _continue_from(self, session: Session) -> None:
        """The store has an earlier state of ours, and takes the present one as it is: only the reply was lost. The
        version stays, for a client may have been told it."""
        ctx = self._ctx
        ctx.tx.change(session)
        session.base = None
        ctx.tx.log(session, session.record(HistoryMode.KEEP, b"", 0, []), ctx.clock.mono())

    def _raise_above(self, session: Session, version: int, epoch: int) -> None:
        """Raise ours above the store's older state."""
        ctx = self._ctx
        ctx.tx.change(session)
        session.base = None
        session.rise_above(version, epoch, ctx.now_us())
        ctx.tx.log(session, session.record(HistoryMode.KEEP, b"", 0, []), ctx.clock.mono())

    def _merge(self, session: Session, base: MergeBase, theirs: Session) -> None:
        ctx = self._ctx
        now_us = ctx.now_us()
        was_ended, timeouts = session.ended, (session.facts.heartbeat_timeout_s, session.facts.max_duration_s)
        is_untouched = session.version == base.version
        ctx.tx.change(session)
        lineage = session.doc.lineage
        merge(session, base, theirs)
        self._merge_ownership(session, base, theirs)
        session.rise_above(theirs.version, -1, now_us)
        session.host, session.base = None, None
        self._update_deadlines(session, was_ended, timeouts)
        reason = MERGED if base.version == 0 else NEWER
        ctx.events.note("recovered", now_us, session, reason=reason)
        log.warning(
            "store_state_taken", "session %s: the store had %s; %s", session.id,
            "what its save left out" if base.version == 0 else "a newer state than the journal",
            "taken" if is_untouched else "merged", session_id=session.id,
        )  # fmt: skip
        head = None
        if session.doc.lineage == lineage:
            head = session.record(HistoryMode.KEEP, b"", 0, [*starmap(OpResult, session.ops.items())])
        else:
            session.written = theirs.written
        ctx.tx.log(session, head, ctx.clock.mono())

    def _merge_ownership(self, session: Session, base: MergeBase, theirs: Session) -> None:
        """Merge ownership: ours if it has changed since the merge base, else the store's."""
        ours, other = session.facts, theirs.facts
        if (ours.epoch, ours.owner) != (base.epoch, base.owner):
            session.rise_above(theirs.version, other.epoch, self._ctx.now_us())
            if base.version == 0 and not ours.owner and other.owner and not theirs.ended:
                session.change_facts(owner=other.owner, raised=(session.facts.epoch, other.epoch))
            return
        is_same = (ours.owner, ours.epoch) == (other.owner, other.epoch)
        session.change_facts(
            owner=other.owner,
            epoch=max(ours.epoch, other.epoch),
            instance=ours.instance if is_same else "",
            orphan="" if other.owner else ours.orphan,
        )

    def _update_deadlines(
        self, session: Session, was_ended: bool, timeouts: tuple[float | None, float | None]
    ) -> None:
        ctx = self._ctx
        if session.ended:
            ctx.lift(session)
            ctx.liveness.keep(session, ctx.clock.live())
        elif was_ended:
            ctx.watch(INTERNAL, session)
        elif timeouts != (session.facts.heartbeat_timeout_s, session.facts.max_duration_s):
            retime(ctx, INTERNAL, session, timeouts[0])


def _is_new_call(session: Session, meta: StoredMeta) -> bool:
    """Whether ours is a new call, saved while the store was down under an id whose call at another host is over."""
    if not session.unverified:
        return False
    is_over = meta.state == ENDED or bool(meta.ended_at)
    return meta.deleted or (is_over and meta.version <= session.version)


def _is_taken_back(session: Session, theirs: Session) -> bool:
    """Whether the store had ours, and has a state by now that another host had in between, and perhaps changed.
    Whether that one had what the journal has of ours is not known: they can't be merged."""
    is_later = theirs.host is None and is_later_term(theirs.facts.epoch, session.facts.epoch)
    if not is_later or session.unverified:
        return False
    if session.base is not None:
        return theirs.version not in (session.base.version, session.base.sent)
    return 0 < session.stored_version != theirs.version


def _is_known(session: Session, base: MergeBase, theirs: Session) -> bool:
    """Whether the store has a state that we wrote, at or since the base: the reply was lost, or the daemon died."""
    if theirs.version <= base.version or theirs.version == session.version:
        return True
    return bool(base.sent) and base.sent <= theirs.version <= session.version
