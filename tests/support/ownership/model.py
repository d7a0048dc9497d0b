"""Which requests are allowed, and what they do, by docs/protocol.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from support.ownership.expiry_model import EXITED, OVERTIME, Call, ExpiryModel, key


@dataclass(frozen=True)
class Request:
    """A request as hypothesis draws it; each kind uses the members that it needs."""

    kind: str
    session_id: str = "a"
    worker_id: str = ""
    status: str = "active"
    epoch: Literal["none", "right", "old"] = "none"
    timeout_s: float | None = None
    max_s: float | None = None
    steal: bool = False
    stray: bool = False
    """Use just this session id, whether or not the session exists."""
    number: int = 0


class ExpectedError(Exception):
    """The kind of error that a request must get."""


class OwnershipModel(ExpiryModel):
    """The contract of one daemon's calls."""

    # -- requests ------------------------------------------------------------------------------------------

    def request(self, request: Request, caller: str, instance: str) -> tuple[str, Any]:
        """The kind of error that a request must get, if any, and what its result must contain."""
        self.caller, self.instance, self.changed = caller, instance, False
        verb: Callable[[Request], Any] = getattr(self, request.kind)
        try:
            return "", verb(request)
        except ExpectedError as refused:
            return str(refused), None

    def epoch_for(self, request: Request) -> int | None:
        """The epoch to give with a request."""
        call = self.calls.get(request.session_id)
        if call is None or (request.epoch == "none" and request.kind != "release"):
            return None
        if request.epoch != "old":
            return call.epoch
        return call.epoch - 1 if call.epoch else 7

    def find(self, session_id: str) -> Call:
        if session_id not in self.calls:
            raise ExpectedError("not_found")
        return self.calls[session_id]

    def allow(self, call: Call, request: Request, *, with_epoch: bool = True) -> None:
        """Refuse a request whose caller may not change the call."""
        anothers = call.owner != self.caller or self.held_elsewhere(call)
        self.fence(
            call, (with_epoch and self.is_stale(call, request)) or bool(call.owner and self.caller and anothers)
        )

    def is_stale(self, call: Call, request: Request) -> bool:
        """Whether the request gives another epoch than the session's."""
        return self.epoch_for(request) not in (None, call.epoch)

    def fence(self, call: Call, fenced: bool) -> None:
        """Refuse a fenced request; the first of an epoch is reported by an event."""
        if fenced:
            if call.cold or call.fenced_epoch != call.epoch:
                self.expect("fenced", call, worker_id=self.caller, optional=call.cold)
                call.fenced_epoch = None if call.cold else call.epoch  # not kept for a session outside of memory
            raise ExpectedError("fenced")

    def held_elsewhere(self, call: Call) -> bool:
        """Whether another instance of the calling worker holds the call, and is connected."""
        if not (self.instance and call.instance) or self.instance == call.instance:
            return False
        worker = self.workers.get(call.owner)
        return worker is not None and any(self.instances[line] == call.instance for line in worker.lines)

    def changeable(self, request: Request) -> Call:
        call = self.find(request.session_id)
        self.allow(call, request)
        if call.reaped:
            raise ExpectedError("session_ended")
        self.touch(call)
        return call

    def connected(self, worker_id: str) -> bool:
        worker = self.workers.get(worker_id)
        return worker is not None and bool(worker.lines)

    def beat(self, request: Request) -> dict[str, Any]:
        call = self.find(request.session_id)
        self.allow(call, request, with_epoch=False)
        if call.phase == "ended":
            raise ExpectedError("session_ended")
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

    def beats(self, request: Request) -> dict[str, Any]:
        """A heartbeat for two sessions, one of which does not exist."""
        lists: dict[str, Any] = {"missing": [], "ended": [], "fenced": []}
        names = {"not_found": "missing", "session_ended": "ended", "fenced": "fenced"}
        for session_id in (request.session_id, "nowhere"):
            try:
                lists |= self.beat(Request("beat", session_id))
            except ExpectedError as refused:
                lists[names[str(refused)]].append(session_id)
        return lists

    def save(self, request: Request) -> dict[str, Any]:
        if request.session_id not in self.calls:
            return self.create(request)
        call = self.changeable(request)
        was_ended = call.phase == "ended"
        call.to, call.interruptions = f"+{request.number}", 0
        if was_ended and request.status != "ended" and not call.owner and self.caller:
            call.epoch += 1  # as for a claim: another worker may have had it
            call.owner, call.instance, call.orphan = self.caller, self.instance, ""
        self.settle(call, request)
        before_s = call.in_force_s()
        call.timeout_s = call.timeout_s if request.timeout_s is None else request.timeout_s
        call.max_s = call.max_s if request.max_s is None else request.max_s
        if call.phase != "ended":
            self.retimed(call, before_s)
        return {}

    def create(self, request: Request) -> dict[str, Any]:
        if self.draining:
            raise ExpectedError("shutting_down")
        call = Call(
            request.session_id, self.caller, self.tombstones.pop(request.session_id, 0), self.now, self.gained,
            self.lost, self.now, self.now, status=request.status, timeout_s=request.timeout_s, max_s=request.max_s,
            to=f"+{request.number}", instance=self.instance,
        )  # fmt: skip
        self.calls[request.session_id] = call
        self.changed = True
        self.expect("created", call)
        if request.status == "ended":
            self.over(call, "completed")
            self.expect("ended", call, reason="completed")
        return {}

    def update(self, request: Request) -> dict[str, Any]:
        late = self.calls.get(request.session_id)
        if late is not None and late.phase == "ended" and request.status != "ended":
            self.allow(late, request)
            raise ExpectedError("session_ended")
        call = self.changeable(request)
        call.to = f"+{request.number}"
        self.settle(call, request)
        return {}

    def turn(self, request: Request) -> dict[str, Any]:
        call = self.changeable(request)
        call.turns += 1
        self.heard_by(call, request)
        return {"turn_count": call.turns}

    def interrupt(self, request: Request) -> dict[str, Any]:
        call = self.changeable(request)
        call.interruptions += 1
        self.heard_by(call, request)
        return {}

    def end(self, request: Request) -> dict[str, Any]:
        call = self.find(request.session_id)
        if call.phase == "ended":
            self.fence(call, self.is_stale(call, request))
            return {}
        self.allow(call, request)
        self.touch(call)
        self.over(call, "hangup")
        self.expect("ended", call, reason="hangup")
        return {}

    def delete(self, request: Request) -> dict[str, Any]:
        call = self.find(request.session_id)
        self.allow(call, request)
        self.changed = True
        self.expect("deleted", call, reason="deleted")
        self.tombstones[call.session_id] = call.epoch
        del self.calls[call.session_id]
        self.pending.pop(call.session_id, None)
        return {}

    def claim(self, request: Request) -> dict[str, Any]:
        worker_id = self.claimer(request)
        call = self.find(request.session_id)
        if call.phase == "ended" and (call.cold or not call.reaped):
            raise ExpectedError("session_ended")
        anothers = call.owner not in ("", worker_id)
        own = self.is_own(call, worker_id)
        if own:
            self.life(call)
        elif call.phase == "live" and anothers and not request.steal and call.session_id not in self.pending:
            raise ExpectedError("conflict")
        else:
            self.take(call, worker_id)
        before = call.in_force_s(), call.max_s
        call.timeout_s = call.timeout_s if request.timeout_s is None else request.timeout_s
        call.max_s = call.max_s if request.max_s is None else request.max_s
        if own:
            self.retimed(call, before[0])
        if before != (call.in_force_s(), call.max_s):
            self.touch(call)
        limit = {} if call.max_s is None else {"max_duration_s": call.max_s}
        return {"epoch": call.epoch, "owner": worker_id, "heartbeat_timeout_s": call.in_force_s()} | limit

    def claim_next(self, request: Request) -> dict[str, Any] | None:
        worker_id = self.claimer(request)
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

    def release(self, request: Request) -> dict[str, Any]:
        call = self.find(request.session_id)
        self.allow(call, request)
        if call.phase == "ended":
            raise ExpectedError("session_ended")
        if call.owner:
            owner = call.owner
            self.forsake(call, "released")
            self.expect("released", call, owner=owner, reason="released")
        return {}

    def drain(self, request: Request) -> dict[str, Any]:
        if self.draining is not request.steal:
            self.draining = request.steal
            self.expected.append({"type": "server.drain", "drain": request.steal})
        return {"drain": request.steal, "sessions": sum(call.phase != "ended" for call in self.calls.values())}

    # -- what requests do ----------------------------------------------------------------------------------

    def claimer(self, request: Request) -> str:
        if self.caller and request.worker_id and request.worker_id != self.caller:
            raise ExpectedError("forbidden")
        return request.worker_id or self.caller

    def is_own(self, call: Call, worker_id: str) -> bool:
        left = call.suspected == EXITED or call.session_id in self.pending
        same = not self.caller or call.instance == self.instance
        return call.owner == worker_id and same and call.phase != "ended" and not left

    def heard_by(self, call: Call, request: Request) -> None:
        """A change counts as a sign of life if it comes from the owner, or gives the epoch."""
        if call.phase == "ended":
            call.heard = call.spoken = self.now
        elif call.owner in ("", self.caller) or self.epoch_for(request) is not None:
            self.life(call)

    def settle(self, call: Call, request: Request) -> None:
        """Apply the status of a save or an update: an end, a revival, or a change like any other."""
        if (call.phase == "ended") is (request.status == "ended"):
            call.status = request.status
            self.heard_by(call, request)
        elif request.status == "ended":
            self.over(call, "completed")
            self.expect("ended", call, reason="completed")
        else:
            call.status, call.ended_reason = request.status, ""
            self.alive(call)
            self.places += 1
            call.place = self.places  # if it is an orphan, it becomes the newest
            self.expect("recovered", call, reason="revived")

    def life(self, call: Call) -> None:
        suspect = call.phase == "suspect"
        self.alive(call)
        if suspect:
            self.expect("recovered", call)

    def take(self, call: Call, worker_id: str) -> None:
        """A worker claims the call from its owner, if it has one."""
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

    def undone(self, trial: OwnershipModel, request: Request) -> None:
        """A request was rolled back that would have led to `trial`."""
        call = self.calls.get(request.session_id)
        if call is None or call.phase != "suspect":
            return
        if any(
            key(event) == ("session", call.session_id) and event["type"] == "recovered" for event in trial.expected
        ):
            self.may_recover.add(call.session_id)
