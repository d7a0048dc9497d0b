"""What a rollback of the open group restores (transaction.py): data, without rules."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, NamedTuple

from msgspec import Struct

from callstate_client.engine.sessions.records import SetAsideRecord
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.sessions.written_parts import WrittenParts
from callstate_client.engine.table.dirty_set import Mark
from callstate_client.engine.table.quarantine import Refusal
from callstate_client.engine.table.tombstones import Tombstone

__all__ = ["RareUndo", "Saved", "Suspicion"]


class Saved(Struct, gc=False):
    """The state under one id before the group."""

    session: Session | None
    mark: tuple[Any, ...] | None
    tombstone: Tombstone | None
    dirty: Mark | None
    refusal: Refusal | None


class Suspicion(NamedTuple):
    """Why a session was a suspect."""

    session: Session
    reason: str


class RareUndo(Struct):
    """What few groups have to restore.

    Args:
        admitted: sessions that became hot by being read.
        written: sessions journaled by referring to parts.
        suspicions: those that were lifted.
        suspects: changed suspects, and their places among the suspects.
        restored: sessions that were `restored`, and their last sign of life before the claim counted as one.
        holds: holds of changed sessions that ended with the claimer's death: when it had claimed the session, and
            the counts.
        orphans: changed orphans, and their places among the orphans.
        settled: deletions that are not sent to the store, of ids that were changed.
        set_aside: copies that were set aside.
        dropped_copies: copies that were dropped.
        departures: those that were decided, or that the group keeps from being pending: where they are, the
            session's id, and why its owner left.
    """

    admitted: list[Session] = []
    written: list[tuple[Session, WrittenParts]] = []
    suspicions: list[Suspicion] = []
    suspects: dict[str, int] = {}
    restored: list[tuple[Session, int]] = []
    holds: list[tuple[Session, int, dict[str, Any]]] = []
    orphans: dict[str, int] = {}
    settled: dict[str, Tombstone] = {}
    set_aside: list[SetAsideRecord] = []
    dropped_copies: list[SetAsideRecord] = []
    departures: list[tuple[MutableMapping[str, str], str, str]] = []
