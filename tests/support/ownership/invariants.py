"""Invariants that need no model: they are checked from events and listings alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from support.ownership.expiry_model import Call


class Invariants:
    """Which worker held which session in which epoch, which versions it had, and which sessions are live."""

    def __init__(self) -> None:
        self.seq = 0
        self.births: Counter[str] = Counter()
        """How many sessions have been created under each id."""
        self.live: set[str] = set()
        self.holders: dict[tuple[str, int, int], str] = {}
        self.epochs: dict[str, int] = {}
        self.versions: dict[tuple[str, int], int] = {}

    def restarted(self) -> None:
        """A new event stream begins."""
        self.seq = 0

    def observe(self, event: dict[str, Any]) -> None:
        """Check an event: numbers rise, and only live sessions end, once each."""
        assert event["seq"] > self.seq, event
        self.seq = event["seq"]
        if "session_id" not in event:
            return
        session_id, type_, reason = event["session_id"], event["type"], event.get("reason")
        if type_ == "created":
            assert session_id not in self.live
            self.births[session_id] += 1
            self.live.add(session_id)
        elif type_ in ("ended", "expired"):
            assert session_id in self.live, f"ended, but was not live: {event}"
            assert reason
            self.live.remove(session_id)
        elif type_ == "deleted":
            self.live.discard(session_id)
        elif reason in ("revived", "reaped"):
            assert session_id not in self.live
            self.live.add(session_id)
        else:
            assert type_ == "fenced" or session_id in self.live, event
        self.held(session_id, event["epoch"], event.get("owner", ""))

    def listed(self, rows: dict[str, dict[str, Any]]) -> None:
        """Check a listing: the live sessions in memory are those that have not ended."""
        assert {session_id for session_id, row in rows.items() if row["session"]["status"] != "ended"} == self.live
        for session_id, row in rows.items():
            self.held(session_id, row["epoch"], row.get("owner", ""))

    def held(self, session_id: str, epoch: int, owner: str) -> None:
        """Check that epochs never fall, and that each has one owner at most."""
        assert epoch >= self.epochs.get(session_id, 0), f"the epoch of {session_id} fell to {epoch}"
        self.epochs[session_id] = epoch
        if owner:
            holder = self.holders.setdefault((session_id, self.births[session_id], epoch), owner)
            assert holder == owner, f"{holder} and {owner} hold {session_id} in epoch {epoch}"

    def version(self, session_id: str, version: int, *, changed: bool) -> None:
        """Check that the version has risen if the session changed, and is the same otherwise."""
        place = session_id, self.births[session_id]
        before = self.versions.get(place, version - 1)
        assert version > before if changed else version == before, f"{session_id}: {before}, then {version}"
        self.versions[place] = version


def shown(call: Call) -> dict[str, Any]:
    """A call of the model as a listing must show it."""
    return {
        "owner": call.owner, "epoch": call.epoch, "status": call.status, "ended_reason": call.ended_reason,
        "to": call.to, "turns": call.turns, "interruptions": call.interruptions,
    }  # fmt: skip


def listed(row: dict[str, Any]) -> dict[str, Any]:
    """The same members, of a row of the listing."""
    session = row["session"]
    return {
        "owner": row.get("owner", ""), "epoch": row["epoch"], "status": session["status"],
        "ended_reason": row.get("ended_reason", ""), "to": session["to"], "turns": row["turn_count"],
        "interruptions": session["metrics"]["interruption_count"],
    }  # fmt: skip
