"""What may never be, whatever a model says: kept from events and listings alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from support.ownership.expiry_model import Call


class Invariants:
    """Who was seen to hold what in which epoch, what has ended, and how often that was told."""

    def __init__(self) -> None:
        self.seq = 0
        self.births: Counter[str] = Counter()
        """How many sessions there have been under an id."""
        self.live: set[str] = set()
        self.holders: dict[tuple[str, int, int], str] = {}
        self.epochs: dict[str, int] = {}
        self.versions: dict[tuple[str, int], int] = {}

    def restarted(self) -> None:
        """Another stream begins; what is told of it has been read by no one yet."""
        self.seq = 0

    def told(self, event: dict[str, Any]) -> None:
        """An event: numbers only rise, and what ends was live and ends once."""
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
            assert session_id in self.live, f"ended, and was not live: {event}"
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
        """What is in memory: what is live there is what did not end."""
        assert {session_id for session_id, row in rows.items() if row["session"]["status"] != "ended"} == self.live
        for session_id, row in rows.items():
            self.held(session_id, row["epoch"], row.get("owner", ""))

    def held(self, session_id: str, epoch: int, owner: str) -> None:
        """Epochs never fall, and no two hold a session in one of them."""
        assert epoch >= self.epochs.get(session_id, 0), f"the epoch of {session_id} fell to {epoch}"
        self.epochs[session_id] = epoch
        if owner:
            holder = self.holders.setdefault((session_id, self.births[session_id], epoch), owner)
            assert holder == owner, f"{holder} and {owner} hold {session_id} in epoch {epoch}"

    def version(self, session_id: str, version: int, *, changed: bool) -> None:
        """What was changed has a higher version, and nothing else has another one."""
        place = session_id, self.births[session_id]
        before = self.versions.get(place, version - 1)
        assert version > before if changed else version == before, f"{session_id}: {before}, then {version}"
        self.versions[place] = version


def shown(call: Call) -> dict[str, Any]:
    """A call as a listing must show it."""
    return {
        "owner": call.owner, "epoch": call.epoch, "status": call.status, "ended_reason": call.ended_reason,
        "to": call.to, "turns": call.turns, "interruptions": call.interruptions,
    }  # fmt: skip


def listed(row: dict[str, Any]) -> dict[str, Any]:
    """A call as a listing shows it."""
    session = row["session"]
    return {
        "owner": row.get("owner", ""), "epoch": row["epoch"], "status": session["status"],
        "ended_reason": row.get("ended_reason", ""), "to": session["to"], "turns": row["turn_count"],
        "interruptions": session["metrics"]["interruption_count"],
    }  # fmt: skip
