"""Who may do what with a call, and what it does, by docs/protocol.md: all of it foretold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from support.ownership.expiry_model import EXITED, OVERTIME, Call, ExpiryModel, key


@dataclass(frozen=True)
class Ask:
    """A request as it is drawn; each kind takes from it what it needs."""

    kind: str
    session_id: str = "a"
    worker_id: str = ""
    status: str = "active"
    epoch: Literal["none", "right", "old"] = "none"
    timeout_s: float | None = None
    max_s: float | None = None
    steal: bool = False
    stray: bool = False
    """Ask for just this session, be it there or not."""
    number: int = 0


class Refused(Exception):  # noqa: N818 - an answer
    """The kind of error that a request must get."""


class Model(ExpiryModel):
    """All that the contract says of one daemon's calls."""

    # -- requests ------------------------------------------------------------------------------------------

    def ask(self, ask: Ask, caller: str, instance: str) -> tuple[str, Any]:
        """The kind of error that this must get, or none; and what the result has to say."""
        self.caller, self.instance, self.changed = caller, instance, False
        verb: Callable[[Ask], Any] = getattr(self, ask.kind)
        try:
            return "", verb(ask)
        except Refused as refused:
            return str(refused), None

    def epoch_for(self, ask: Ask) -> int | None:
        """The epoch to give with a request."""
        call = self.calls.get(ask.session_id)
        if call is None or (ask.epoch == "none" and ask.kind != "release"):
            return None
        if ask.epoch != "old":
            return call.epoch
        return call.epoch - 1 if call.epoch else 7

    def find(self, session_id: str) -> Call:
        if session_id not in self.calls:
            raise Refused("not_found")
        return self.calls[session_id]

    def allow(self, call: Call, ask: Ask, *, with_epoch: bool = True) -> None:
        """Who may do what."""
        anothers = call.owner != self.caller or self.held_elsewhere(call)
        self.fence(call, (with_epoch and self.is_stale(call, ask)) or bool(call.owner and self.caller and anothers))

    def is_stale(self, call: Call, ask: Ask) -> bool:
        """Whether it gives an epoch, and not the session's."""
        return self.epoch_for(ask) not in (None, call.epoch)

    def fence(self, call: Call, fenced: bool) -> None:
        """Refuse who acts on another's; the first of an epoch is an event."""
        if fenced:
            if call.cold or call.fenced_epoch != call.epoch:
                self.expect("fenced", call, worker_id=self.caller, optional=call.cold)
                call.fenced_epoch = None if call.cold else call.epoch  # what the store alone has is not kept
            raise Refused("fenced")

    def held_elsewhere(self, call: Call) -> bool:
        """Another instance of the worker that asks holds it, and is there."""
        if not (self.instance and call.instance) or self.instance == call.instance:
            return False
        worker = self.workers.get(call.owner)
        return worker is not None and any(self.instances[line] == call.instance for line in worker.lines)

    def changeable(self, ask: Ask) -> Call:
        call = self.find(ask.session_id)
        self.allow(call, ask)
        if call.reaped:
            raise Refused("session_ended")
        self.touch(call)
        return call

    def connected(self, worker_id: str) -> bool:
        worker = self.workers.get(worker_id)
        return worker is not None and bool(worker.lines)

    def beat(self, ask: Ask) -> dict[str, Any]:
        call = self.find(ask.session_id)
        self.allow(call, ask, with_epoch=False)
        if call.phase == "ended":
            raise Refused("session_ended")
        if call.owner in ("", self.caller) or not (self.caller or self.connected(call.owner)):
            self.life(call)
            known_s, call.known_s = call.known_s, None
            if known_s is not None:
                return {"timeouts": {call.session_id: call.in_force_s()}}
        return {}

    def retimed(self, call: Call, before_s: float) -> None:
        """The caller has read the timeout in force, and may have changed it."""
        if not call.owner or (call.owner == self.caller and call.instance == self.instance):
            call.known_s = None
        elif call.known_s is None and call.in_force_s() != before_s:
            call.known_s = before_s

    def beats(self, ask: Ask) -> dict[str, Any]:
        """For several, one of which is not there."""
        lists: dict[str, Any] = {"missing": [], "ended": [], "fenced": []}
        names = {"not_found": "missing", "session_ended": "ended", "fenced": "fenced"}
        for session_id in (ask.session_id, "nowhere"):
            try:
                lists |= self.beat(Ask("beat", session_id))
            except Refused as refused:
                lists[names[str(refused)]].append(session_id)
        return lists

    def save(self, ask: Ask) -> dict[str, Any]:
        if ask.session_id not in self.calls:
            return self.create(ask)
        call = self.changeable(ask)
        was_ended = call.phase == "ended"
        call.to, call.interruptions = f"+{ask.number}", 0
        if was_ended and ask.status != "ended" and not call.owner and self.caller:
            call.epoch += 1  # a claim: it may have been another's
            call.owner, call.instance, call.orphan = self.caller, self.instance, ""
        self.settle(call, ask)
        before_s = call.in_force_s()
        call.timeout_s = call.timeout_s if ask.timeout_s is None else ask.timeout_s
        call.max_s = call.max_s if ask.max_s is None else ask.max_s
        if call.phase != "ended":
            self.retimed(call, before_s)
        return {}

    def create(self, ask: Ask) -> dict[str, Any]:
        if self.draining:
            raise Refused("shutting_down")
        call = Call(
            ask.session_id, self.caller, self.tombstones.pop(ask.session_id, 0), self.now, self.gained, self.lost,
            self.now, self.now, status=ask.status, timeout_s=ask.timeout_s, max_s=ask.max_s, to=f"+{ask.number}",
            instance=self.instance,
        )  # fmt: skip
        self.calls[ask.session_id] = call
        self.changed = True
        self.expect("created", call)
        if ask.status == "ended":
            self.over(call, "completed")
            self.expect("ended", call, reason="completed")
        return {}

    def update(self, ask: Ask) -> dict[str, Any]:
        late = self.calls.get(ask.session_id)
        if late is not None and late.phase == "ended" and ask.status != "ended":
            self.allow(late, ask)
            raise Refused("session_ended")
        call = self.changeable(ask)
        call.to = f"+{ask.number}"
        self.settle(call, ask)
        return {}

    def turn(self, ask: Ask) -> dict[str, Any]:
        call = self.changeable(ask)
        call.turns += 1
        self.heard_by(call, ask)
        return {"turn_count": call.turns}

    def interrupt(self, ask: Ask) -> dict[str, Any]:
        call = self.changeable(ask)
        call.interruptions += 1
        self.heard_by(call, ask)
        return {}

    def end(self, ask: Ask) -> dict[str, Any]:
        call = self.find(ask.session_id)
        if call.phase == "ended":
            self.fence(call, self.is_stale(call, ask))
            return {}
        self.allow(call, ask)
        self.touch(call)
        self.over(call, "hangup")
        self.expect("ended", call, reason="hangup")
        return {}

    def delete(self, ask: Ask) -> dict[str, Any]:
        call = self.find(ask.session_id)
        self.allow(call, ask)
        self.changed = True
        self.expect("deleted", call, reason="deleted")
        self.tombstones[call.session_id] = call.epoch
        del self.calls[call.session_id]
        self.pending.pop(call.session_id, None)
        return {}

    def claim(self, ask: Ask) -> dict[str, Any]:
        worker_id = self.claimer(ask)
        call = self.find(ask.session_id)
        if call.phase == "ended" and (call.cold or not call.reaped):
            raise Refused("session_ended")
        anothers = call.owner not in ("", worker_id)
        own = self.is_own(call, worker_id)
        if own:
            self.life(call)
        elif call.phase == "live" and anothers and not ask.steal and call.session_id not in self.pending:
            raise Refused("conflict")
        else:
            self.take(call, worker_id)
        before = call.in_force_s(), call.max_s
        call.timeout_s = call.timeout_s if ask.timeout_s is None else ask.timeout_s
        call.max_s = call.max_s if ask.max_s is None else ask.max_s
        if own:
            self.retimed(call, before[0])
        if before != (call.in_force_s(), call.max_s):
            self.touch(call)
        limit = {} if call.max_s is None else {"max_duration_s": call.max_s}
        return {"epoch": call.epoch, "owner": worker_id, "heartbeat_timeout_s": call.in_force_s()} | limit

    def claim_next(self, ask: Ask) -> dict[str, Any] | None:
        worker_id = self.claimer(ask)
        calls = sorted(self.calls.values(), key=lambda call: call.place)
        orphans = [call for call in calls if call.phase != "ended" and call.orphan]
        suspects = [call for call in calls if call.phase == "suspect"]
        leaving = [self.calls[session_id] for session_id in self.pending]
        for call in (*orphans, *suspects, *leaving):
            if self.is_own(call, worker_id):
                self.life(call)
                self.retimed(call, call.in_force_s())
            else:
                self.take(call, worker_id)
            return {"epoch": call.epoch, "owner": worker_id, "id": call.session_id}
        return None

    def release(self, ask: Ask) -> dict[str, Any]:
        call = self.find(ask.session_id)
        self.allow(call, ask)
        if call.phase == "ended":
            raise Refused("session_ended")
        if call.owner:
            owner = call.owner
            self.forsake(call, "released")
            self.expect("released", call, owner=owner, reason="released")
        return {}

    def drain(self, ask: Ask) -> dict[str, Any]:
        if self.draining is not ask.steal:
            self.draining = ask.steal
            self.expected.append({"type": "server.drain", "drain": ask.steal})
        return {"drain": ask.steal, "sessions": sum(call.phase != "ended" for call in self.calls.values())}

    # -- what requests do ----------------------------------------------------------------------------------

    def claimer(self, ask: Ask) -> str:
        if self.caller and ask.worker_id and ask.worker_id != self.caller:
            raise Refused("forbidden")
        return ask.worker_id or self.caller

    def is_own(self, call: Call, worker_id: str) -> bool:
        left = call.suspected == EXITED or call.session_id in self.pending
        same = not self.caller or call.instance == self.instance
        return call.owner == worker_id and same and call.phase != "ended" and not left

    def heard_by(self, call: Call, ask: Ask) -> None:
        """A change is a sign of life if it comes from whom the call concerns."""
        if call.phase == "ended":
            call.heard = call.spoken = self.now
        elif call.owner in ("", self.caller) or self.epoch_for(ask) is not None:
            self.life(call)

    def settle(self, call: Call, ask: Ask) -> None:
        """A change of the status: end, revival, or a change like any other."""
        if (call.phase == "ended") is (ask.status == "ended"):
            call.status = ask.status
            self.heard_by(call, ask)
        elif ask.status == "ended":
            self.over(call, "completed")
            self.expect("ended", call, reason="completed")
        else:
            call.status, call.ended_reason = ask.status, ""
            self.alive(call)
            self.places += 1
            call.place = self.places  # an orphan anew, where it is one
            self.expect("recovered", call, reason="revived")

    def life(self, call: Call) -> None:
        suspect = call.phase == "suspect"
        self.alive(call)
        if suspect:
            self.expect("recovered", call)

    def take(self, call: Call, worker_id: str) -> None:
        """It changes hands."""
        left = self.pending.pop(call.session_id, "")
        why = left or call.suspected or call.orphan or ("stolen" if call.owner else "unowned")
        reason = "reaped" if call.reaped else why
        if call.reaped:
            call.max_s = None if call.ended_reason == OVERTIME else call.max_s
            call.reaped, call.status, call.ended_reason = False, call.status_before, ""
        call.epoch += 1
        call.owner, call.instance, call.orphan, call.known_s = worker_id, self.instance, "", None
        self.alive(call)
        self.touch(call)
        self.expect("claimed", call, reason=reason)

    def forsake(self, call: Call, why: str) -> None:
        self.pending.pop(call.session_id, None)
        call.owner, call.instance, call.orphan, call.known_s = "", "", why, None
        self.places += 1
        call.place = self.places
        self.alive(call)
        self.touch(call)

    def undone(self, trial: Model, ask: Ask) -> None:
        """This was undone, with which all would have been as in `trial`."""
        call = self.calls.get(ask.session_id)
        if call is None or call.phase != "suspect":
            return
        if any(
            key(event) == ("session", call.session_id) and event["type"] == "recovered" for event in trial.expected
        ):
            self.may_recover.add(call.session_id)
