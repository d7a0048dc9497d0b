"""What becomes of a session that the store has in another state than was known here. No I/O in here."""

from __future__ import annotations

import logging

from callstate_client.engine.context import Context
from callstate_client.engine.events import MERGED, NEWER
from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.lifecycle import retime
from callstate_client.engine.sessions.merging import merge
from callstate_client.engine.sessions.records import HistoryMode, MergeBase
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.stored import (
    StoredMeta,
    StoredSession,
    Write,
)
from callstate_client.engine.table.cache import Grave
from callstate_client.errors import UnreadableError

log = logging.getLogger(__name__)


class Reconciler:
    """Compares what the store has with what is hot, where the store did not take a write for it."""

    def __init__(self, ctx: Context, host_id: str) -> None:
        self._ctx = ctx
        self._host_id = host_id

    def settle(self, write: Write, stored: StoredSession | None) -> bool:
        """Make the hot session one that the store will take, if it is ours to say.

        Args:
            write: that the store did not take.
            stored: what it has instead.

        Returns:
            whether to write it again; else what the store has counts, and ours is quarantined.
        """
        session = self._ctx.cache.sessions.get(write.session_id)
        meta = None if stored is None else stored.meta
        if session is None:
            return self._settle_deletion(write.session_id, meta)
        try:
            theirs = None if stored is None else Session.of_stored(write.session_id, stored, self._host_id)
        except UnreadableError:
            return False  # nobody can read it, so nothing can be made of it
        if theirs is None:
            self._settle_absent(session, meta)
        elif self._is_anothers(session, theirs):
            return False
        elif session.base is None or _is_known(session, session.base, theirs):
            self._rise(
                session, theirs.version, -1 if theirs.facts.epoch == session.facts.epoch else theirs.facts.epoch
            )
        else:
            self._merge(session, session.base, theirs)
        return True

    # -- deletions ----------------------------------------------------------------------------------------------

    def _settle_deletion(self, session_id: str, meta: StoredMeta | None) -> bool:
        """Ours of what is ours, or of nobody's, is raised above what the store has."""
        cache = self._ctx.cache
        grave = cache.graves.get(session_id)
        if grave is None:
            return True  # made anew and deleted meanwhile: there is nothing left to write
        if meta is not None and meta.host != self._host_id:
            return False
        if meta is not None:
            version, epoch = max(grave.version, meta.version + 1), max(grave.epoch, meta.epoch)
            cache.raise_grave(session_id, Grave(version, epoch, grave.ops))
        return True

    def _settle_absent(self, session: Session, meta: StoredMeta | None) -> None:
        """The store has nothing, or a tombstone: of a deletion the journal does not know, or of an earlier life."""
        base = session.base
        if meta is None:
            self._rise(session, 0, -1)
        elif (
            base is not None and 0 < base.version < meta.version
            and base.version == session.version and meta.host == self._host_id
        ):  # fmt: skip
            ctx = self._ctx
            log.warning("session %s was deleted after what the journal knows: it is gone", session.id)
            ctx.events.note("deleted", ctx.now_us(), session, reason=NEWER)
            ctx.cache.forget(session, meta.version)
            ctx.liveness.forget(session.id)
        else:
            is_ours = meta.host == self._host_id and meta.epoch == session.facts.epoch
            self._rise(session, meta.version, -1 if is_ours else meta.epoch)

    # -- sessions -----------------------------------------------------------------------------------------------

    def _is_anothers(self, session: Session, theirs: Session) -> bool:
        """Whether it is another's: of a host that has it live, or that had it later; or newer than ours without
        being anybody's, as what the Go package writes."""
        if theirs.host is None:
            return False
        if theirs.host == "":
            return session.unverified and theirs.version > session.doc.updated_us
        return not session.unverified or not theirs.ended or theirs.version > session.version

    def _rise(self, session: Session, version: int, epoch: int) -> None:
        """What the store has is of before ours: be above it."""
        ctx = self._ctx
        ctx.cache.change(session)
        session.base = None
        session.rise_above(version, epoch, ctx.now_us())
        ctx.cache.log(session, session.record(HistoryMode.KEEP, b"", 0, []), ctx.clock.mono())

    def _merge(self, session: Session, base: MergeBase, theirs: Session) -> None:
        ctx = self._ctx
        now_us = ctx.now_us()
        was_ended, timeouts = session.ended, (session.facts.heartbeat_timeout_s, session.facts.max_duration_s)
        is_untouched = session.version == base.version
        ctx.cache.change(session)
        merge(session, base, theirs)
        self._own(session, base, theirs)
        session.rise_above(theirs.version, -1, now_us)
        session.host, session.base = None, None
        self._see_to_its_time(session, was_ended, timeouts)
        reason = MERGED if base.version == 0 else NEWER
        ctx.events.note("recovered", now_us, session, reason=reason)
        log.warning(
            "session %s: the store had %s; %s", session.id,
            "what its save left out" if base.version == 0 else "a newer state than the journal",
            "taken" if is_untouched else "merged",
        )  # fmt: skip
        ctx.cache.log(session, session.snapshot(), ctx.clock.mono())

    def _own(self, session: Session, base: MergeBase, theirs: Session) -> None:
        """Whose it is: who has it here, if somebody took or left it since, else whose the store says."""
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

    def _see_to_its_time(
        self, session: Session, was_ended: bool, timeouts: tuple[float | None, float | None]
    ) -> None:
        ctx = self._ctx
        if session.ended:
            ctx.lift(session)
            ctx.liveness.keep(session.id, ctx.clock.live())
        elif was_ended:
            ctx.watch(INTERNAL, session)
        elif timeouts != (session.facts.heartbeat_timeout_s, session.facts.max_duration_s):
            retime(ctx, INTERNAL, session, timeouts[0])


def _is_known(session: Session, base: MergeBase, theirs: Session) -> bool:
    """Whether the store has what it got from us, at or since the base: the reply was lost, or the daemon died."""
    if theirs.version <= base.version or theirs.version == session.version:
        return True
    return bool(base.sent) and base.sent <= theirs.version <= session.version
