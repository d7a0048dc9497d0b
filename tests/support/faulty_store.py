"""A store in memory any of whose operations may fail, before or after it was applied, and that others write to."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from typing import Literal, NamedTuple

from msgspec import structs

from callstate_client.engine.sessions.stored import (
    StoredMeta,
    StoreDownError,
    StoredSession,
    StoreRefusingError,
    StoreTimeoutError,
)
from callstate_client.engine.sessions.writes import Write
from callstate_sidecar.stores.backend import WriteResult
from support.stores import MemoryBackend

ERRORS = {
    "down": StoreDownError("connection reset by peer"),
    "timeout": StoreTimeoutError("Timeout reading from socket"),
    "refusing": StoreRefusingError("OOM command not allowed"),
}
OTHER_HOST = "host-2"
TERM = 1 << 20
"""What a claim from another host adds to the epoch."""


class Fault(NamedTuple):
    """What becomes of one operation."""

    error: Literal["down", "timeout", "refusing"]
    applied: bool
    """A write was made, and only its reply is lost."""


class FaultyStore(MemoryBackend):
    """`faults` holds what becomes of the next operations, one after the other; None lets one succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: deque[Fault | None] = deque()
        self._copies: list[dict[str, StoredSession]] = []

    async def _meet(self) -> None:
        await super()._meet()
        fault = self.faults.popleft() if self.faults else None
        if fault is not None:
            raise ERRORS[fault.error]

    async def write(self, batch: Sequence[Write]) -> list[WriteResult]:
        """Apply the batch, or fail before or after that."""
        fault = self.faults.popleft() if self.faults else None
        self.faults.appendleft(None)  # for `_meet`
        if fault is not None and not (fault.applied and fault.error != "refusing"):
            self.faults.popleft()
            raise ERRORS[fault.error]
        results = await super().write(batch)
        if fault is not None:
            raise ERRORS[fault.error]
        return results

    # -- losses -------------------------------------------------------------------------------------------------

    def keep_a_copy(self) -> None:
        """Such as a replica that lags behind from now on."""
        self._copies.append(deepcopy(self.rows))

    def forget(self) -> None:
        """FLUSHALL; whoever checks for losses sees it."""
        self._become({})

    def go_back(self) -> None:
        """A failover to the replica."""
        if self._copies:
            self._become(deepcopy(self._copies.pop()))

    def _become(self, rows: dict[str, StoredSession]) -> None:
        self.rows = rows
        self.active = {i for i, row in rows.items() if row.document and is_live(row.document)}
        self.data_losses += 1

    # -- other writers ------------------------------------------------------------------------------------------

    def turns(self, session_id: str) -> list[str]:
        """What was said in a stored session."""
        row = self.rows.get(session_id)
        return [] if row is None else said(row.document)

    def change_by_go(self, session_id: str, content: str, *, ends: bool) -> bool:
        """The Go package adds a turn, or ends the session, by loading and saving; it knows no meta."""
        row = self.rows.get(session_id)
        if row is None or row.document is None:
            return False
        document = json.loads(row.document)
        if ends:
            document["status"] = "ended"
            self.active.discard(session_id)
        else:
            document["history"].append({"role": "user", "content": content, "timestamp": "2026-01-01T00:00:00Z"})
        text = json.dumps(document).encode()
        stamp = b"%d:%b" % (len(text), text[:512])
        self.rows[session_id] = StoredSession(text, row.meta, row.beat_ms, foreign_stamp=stamp)
        return True

    def delete_by_go(self, session_id: str) -> bool:
        """The Go package deletes a session; meta stays."""
        row = self.rows.get(session_id)
        if row is None or row.document is None:
            return False
        self.rows[session_id] = StoredSession(None, row.meta, row.beat_ms)
        self.active.discard(session_id)
        return True

    def claim_elsewhere(self, session_id: str, *, delete: bool) -> bool:
        """Another host claims a session, and may delete it at once."""
        row = self.rows.get(session_id)
        if row is None or row.document is None:
            return False
        held = row.meta or StoredMeta()
        meta = structs.replace(
            held, host=OTHER_HOST, epoch=(held.epoch // TERM + 1) * TERM, version=held.version + 1, deleted=delete
        )
        self.rows[session_id] = StoredSession(None if delete else row.document, meta, row.beat_ms)
        if delete:
            self.active.discard(session_id)
        return True

    def is_elsewhere(self, session_id: str) -> bool:
        """Whether another host has the session."""
        row = self.rows.get(session_id)
        return row is not None and row.meta is not None and row.meta.host == OTHER_HOST


def is_live(document: bytes) -> bool:
    """Whether a document's session has not ended."""
    status: str = json.loads(document)["status"]
    return status != "ended"


def said(document: bytes | None) -> list[str]:
    """The contents of a document's turns."""
    return [] if document is None else [turn["content"] for turn in json.loads(document)["history"]]
