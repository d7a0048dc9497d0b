"""The verbs by which sessions change hands, and those about workers and events, over a shelf of sessions."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from callstate_client import protocol as p
from callstate_client.engine_events import checked_types
from callstate_client.engine_fates import EXITED
from callstate_client.engine_kept import Kept
from callstate_client.engine_reads import Reads
from callstate_client.errors import ConflictError
from callstate_client.protocol.events import Cursor
from callstate_client.protocol.validation import check_labels, check_word


class Standing(Enum):
    """How a session stands to a worker that claims it."""

    ENDED = "ended"
    """Ended by a worker itself."""
    REAPED = "reaped"
    """Ended by time, and not forgotten yet."""
    ORPHAN = "orphan"
    """Its owner gave it up, or went away."""
    SUSPECT = "suspect"
    """Its owner may be dead; or there never was one and nobody was heard."""
    UNOWNED = "unowned"
    """Nobody's, and alive."""
    OWN = "own"
    """The claimer's. Also while suspect for silence: it was this very worker that was silent."""
    OF_ANOTHER_INSTANCE = "of_another_instance"
    """The claimer's, but held by another store of it: both may be at work."""
    ANOTHERS = "anothers"
    """Another worker's, and alive."""


class Claim(Enum):
    """What a claim does."""

    TAKE = "take"
    """A new epoch, and the claimer owns it."""
    KEEP = "keep"
    """The same epoch; a sign of life."""
    CONFLICT = "conflict"
    """Refused, unless it shall be stolen."""
    TOO_LATE = "too_late"
    """Refused: the call is over."""


CLAIMS: Final[Mapping[Standing, Claim]] = {
    Standing.ENDED: Claim.TOO_LATE,
    Standing.REAPED: Claim.TAKE,
    Standing.ORPHAN: Claim.TAKE,
    Standing.SUSPECT: Claim.TAKE,
    Standing.UNOWNED: Claim.TAKE,
    Standing.OWN: Claim.KEEP,
    Standing.OF_ANOTHER_INSTANCE: Claim.TAKE,
    Standing.ANOTHERS: Claim.CONFLICT,
}


def standing(kept: Kept, worker_id: str, instance: str | None) -> Standing:
    """How this session stands to this worker, and to this instance of it; None: an operator acts for it."""
    if kept.ended:
        return Standing.REAPED if kept.reaped else Standing.ENDED
    if kept.orphan:
        return Standing.ORPHAN
    if kept.owner == worker_id and kept.suspicion != EXITED:  # else another process of that name held it
        return Standing.OWN if instance in (None, kept.instance) else Standing.OF_ANOTHER_INSTANCE
    if kept.suspicion:
        return Standing.SUSPECT
    return Standing.ANOTHERS if kept.owner else Standing.UNOWNED


class Owners(Reads):
    """Answers who holds what."""

    def _claim(self, params: p.ClaimParams) -> bytes:
        self._check_worker(params.worker_id)
        self._check_history(params.history)
        kept = self._shelf.find(params.session_id)
        stands = standing(kept, params.worker_id, self._instance())
        claim = CLAIMS[stands]
        if claim is Claim.TOO_LATE:
            raise kept.ended_error()
        if claim is Claim.CONFLICT and not params.steal:
            raise ConflictError(f"the session is held by {kept.owner}", owner=kept.owner)
        timeouts = params.heartbeat_timeout_s, params.max_duration_s
        if claim is Claim.KEEP:
            before_s = kept.heartbeat_timeout_s
            self._shelf.retime(kept, *timeouts)
            self._note_retimed(kept, before_s)
        self._give(kept, params.worker_id, stands)
        if claim is not Claim.KEEP:
            self._shelf.retime(kept, *timeouts)
        return self._loaded(kept, params.history, for_worker=True)

    def _instance(self) -> str | None:
        return None if self._caller.worker_id is None else self._caller.instance

    def _give(self, kept: Kept, worker_id: str, stands: Standing) -> None:
        if CLAIMS[stands] is Claim.KEEP:
            self._note_retimed(kept, kept.heartbeat_timeout_s)
            self._shelf.beat(kept)
            return
        why = {
            Standing.ORPHAN: kept.suspicion or kept.orphan,
            Standing.SUSPECT: kept.suspicion,
            Standing.OF_ANOTHER_INSTANCE: kept.suspicion or "stolen",
            Standing.ANOTHERS: "stolen",
        }.get(stands, stands.value)
        self._shelf.claim(kept, worker_id, self._caller.instance, why)

    def _claim_next(self, params: p.ClaimNextParams) -> bytes:
        self._check_worker(params.worker_id)
        self._check_history(params.history)
        wanted = params.labels or {}
        check_labels(wanted)
        orphans, suspects = [], []
        for kept in self._shelf.all():
            if kept.ended or not wanted.items() <= kept.labels.items():
                continue
            if kept.orphan:
                orphans.append(kept)
            elif kept.suspicion:
                suspects.append(kept)
        # both sorts keep the order of being created among those of one moment
        orphans.sort(key=lambda kept: kept.orphan_at)
        suspects.sort(key=lambda kept: kept.suspect_at)
        for kept in orphans + suspects:
            self._give(kept, params.worker_id, standing(kept, params.worker_id, self._instance()))
            return self._loaded(kept, params.history, for_worker=True)
        return b"null"

    def _release(self, params: p.ReleaseParams) -> bytes:
        kept = self._shelf.find(params.session_id)
        self._check_held(kept, params.epoch)
        if kept.ended:
            raise kept.ended_error()
        if kept.owner:  # else a repeat, which changes nothing
            self._shelf.release(kept)
        return b"{}"

    def _register(self, params: p.RegisterParams) -> bytes:
        self._check_worker(params.worker_id)
        for name in ("instance", "process"):
            check_word(getattr(params, name), f"$.params.{name}", least=1)
        self._shelf.connect(self._caller, params.worker_id)
        self._caller.instance = self._caller.instance or params.instance or ""
        return p.encode_json(p.RegisterResult(worker_id=params.worker_id, drain=self._shelf.draining))

    def _drain(self, params: p.DrainParams) -> bytes:
        self._shelf.drain(params.on)
        count = sum(not kept.ended for kept in self._shelf.all())
        return p.encode_json(p.DrainResult(drain=params.on, sessions=count))

    def _subscribe(self, params: p.SubscribeParams) -> bytes:
        # one request has one reply here, so nothing follows: `MemoryStore.events()` reads at the source
        checked_types(params.types)
        since = None if params.since is None else Cursor(params.since.stream, params.since.seq)
        cursor, _ = self._shelf.events.place(since)
        return p.encode_json(p.SubscribeResult(stream=cursor.stream, seq=cursor.seq))
