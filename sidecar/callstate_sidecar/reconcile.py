"""What becomes of a session that the store has in another state than was known here. No I/O in here."""

from __future__ import annotations

import logging

from callstate_client.engine.context import Context
from callstate_client.engine.events import MERGED, NEWER
from callstate_client.engine.interfaces import INTERNAL
from callstate_client.engine.sessions.merging import merge
from callstate_client.engine.sessions.records import HistoryMode, MergeBase
from callstate_client.engine.sessions.session import Entry
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
        entry = self._ctx.cache.entries.get(write.session_id)
        meta = None if stored is None else stored.meta
        if entry is None:
            return self._settle_deletion(write.session_id, meta)
        try:
            theirs = None if stored is None else Entry.of_stored(write.session_id, stored, self._host_id)
        except UnreadableError:
            return False  # nobody can read it, so nothing can be made of it
        if theirs is None:
            self._settle_absent(entry, meta)
        elif self._is_anothers(entry, theirs):
            return False
        elif entry.base is None or _is_known(entry, entry.base, theirs):
            self._rise(entry, theirs.version, -1 if theirs.epoch == entry.epoch else theirs.epoch)
        else:
            self._merge(entry, entry.base, theirs)
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

    def _settle_absent(self, entry: Entry, meta: StoredMeta | None) -> None:
        """The store has nothing, or a tombstone: of a deletion the journal does not know, or of an earlier life."""
        base = entry.base
        if meta is None:
            self._rise(entry, 0, -1)
        elif (
            base is not None and 0 < base.version < meta.version
            and base.version == entry.version and meta.host == self._host_id
        ):  # fmt: skip
            ctx = self._ctx
            log.warning("session %s was deleted after what the journal knows: it is gone", entry.id)
            ctx.events.note("deleted", ctx.now_us(), entry, reason=NEWER)
            ctx.cache.forget(entry, meta.version)
            ctx.liveness.forget(entry.id)
        else:
            is_ours = meta.host == self._host_id and meta.epoch == entry.epoch
            self._rise(entry, meta.version, -1 if is_ours else meta.epoch)

    # -- sessions -----------------------------------------------------------------------------------------------

    def _is_anothers(self, entry: Entry, theirs: Entry) -> bool:
        """Whether it is another's: of a host that has it live, or that had it later; or newer than ours without
        being anybody's, as what the Go package writes."""
        if theirs.host is None:
            return False
        if theirs.host == "":
            return entry.is_blind and theirs.version > entry.doc.updated_us
        return not entry.is_blind or not theirs.ended or theirs.version > entry.version

    def _rise(self, entry: Entry, version: int, epoch: int) -> None:
        """What the store has is of before ours: be above it."""
        ctx = self._ctx
        ctx.cache.change(entry)
        entry.base = None
        entry.rise_above(version, epoch, ctx.now_us())
        ctx.cache.log(entry, entry.record(HistoryMode.KEEP, b"", 0, []), ctx.clock.mono())

    def _merge(self, entry: Entry, base: MergeBase, theirs: Entry) -> None:
        ctx = self._ctx
        now_us = ctx.now_us()
        was_ended, timeouts = entry.ended, (entry.heartbeat_timeout_s, entry.max_duration_s)
        is_untouched = entry.version == base.version
        ctx.cache.change(entry)
        merge(entry, base, theirs)
        self._own(entry, base, theirs)
        entry.rise_above(theirs.version, -1, now_us)
        entry.host, entry.base = None, None
        self._see_to_its_time(entry, was_ended, timeouts)
        reason = MERGED if base.version == 0 else NEWER
        ctx.events.note("recovered", now_us, entry, reason=reason)
        log.warning(
            "session %s: the store had %s; %s", entry.id,
            "what its save left out" if base.version == 0 else "a newer state than the journal",
            "taken" if is_untouched else "merged",
        )  # fmt: skip
        ctx.cache.log(entry, entry.snapshot(), ctx.clock.mono())

    def _own(self, entry: Entry, base: MergeBase, theirs: Entry) -> None:
        """Whose it is: who has it here, if somebody took or left it since, else whose the store says."""
        if (entry.epoch, entry.owner) != (base.epoch, base.owner):
            entry.rise_above(theirs.version, theirs.epoch, self._ctx.now_us())
            if base.version == 0 and not entry.owner and theirs.owner and not theirs.ended:
                entry.owner, entry.raised = theirs.owner, (entry.epoch, theirs.epoch)
            return
        if entry.owner != theirs.owner or entry.epoch != theirs.epoch:
            entry.instance = ""
        entry.owner, entry.epoch = theirs.owner, max(entry.epoch, theirs.epoch)
        if entry.owner:
            entry.orphan = ""

    def _see_to_its_time(self, entry: Entry, was_ended: bool, timeouts: tuple[float | None, float | None]) -> None:
        ctx = self._ctx
        if entry.ended:
            ctx.lift(entry)
            ctx.liveness.keep(entry.id, ctx.clock.live())
        elif was_ended:
            ctx.watch(INTERNAL, entry)
        elif timeouts != (entry.heartbeat_timeout_s, entry.max_duration_s):
            ctx.retime(INTERNAL, entry, timeouts[0])


def _is_known(entry: Entry, base: MergeBase, theirs: Entry) -> bool:
    """Whether the store has what it got from us, at or since the base: the reply was lost, or the daemon died."""
    if theirs.version <= base.version or theirs.version == entry.version:
        return True
    return bool(base.sent) and base.sent <= theirs.version <= entry.version
