"""An oracle for crashes: it sends a daemon many requests, records which were acknowledged, and checks what is left.

Each session's requests go over one connection in order, so after a crash the session must be in the state that
some prefix of its requests leads to, and that prefix must reach at least to the last one acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WINDOW = 8
"""Pending requests per connection."""


@dataclass
class SessionModel:
    """The expected state of one session."""

    exists: bool = False
    status: str = "pending"
    turns: list[str] = field(default_factory=list)
    interruptions: int = 0
    counter: int = 0

    def after(self, request: dict[str, Any]) -> SessionModel:
        """The state after this request."""
        method, params = request["method"], request["params"]
        state = SessionModel(self.exists, self.status, [*self.turns], self.interruptions, self.counter)
        if method == "session.save":
            session = params["session"]
            turns = [turn["content"] for turn in session["history"]]
            return SessionModel(
                True, session["status"], turns, session["metrics"]["interruption_count"], session["n"]
            )
        if method == "session.add_turn":
            state.turns += [turn["content"] for turn in params["turns"]]
        elif method == "session.amend_turn":
            state.turns[params["index"]] = params["set"]["content"]
        elif method == "session.record_interruption":
            state.interruptions += 1
        elif method == "session.update":
            state.counter = params["set"]["n"]
            state.status = params["set"].get("status", state.status)
        elif method == "session.end":
            state.status = "ended"
        elif method == "session.delete":
            return SessionModel()
        return state


def found_in(reply: dict[str, Any]) -> SessionModel:
    """The state that the reply to a `session.load` has."""
    if "error" in reply:
        assert reply["error"]["data"]["kind"] == "not_found", reply
        return SessionModel()
    session = reply["result"]["session"]
    turns = [turn["content"] for turn in session["history"]]
    assert reply["result"]["turn_count"] == len(turns)
    return SessionModel(
        True, session["status"], turns, session["metrics"]["interruption_count"], session.get("n", 0)
    )


@dataclass
class SessionLog:
    """One session: its state at the last check, and the requests since then."""

    base: SessionModel = field(default_factory=SessionModel)
    now: SessionModel = field(default_factory=SessionModel)
    """The state after all requests, as if all had been executed."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    acknowledged: int = 0
    """How many of them, from the first on, were acknowledged."""


class RequestMaker:
    """Makes requests at random, each with a number of its own in what it writes.

    Args:
        seed: of the requests.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.number = 0

    def next(self, session: str, state: SessionModel) -> dict[str, Any]:
        """A request of any kind that succeeds in this state."""
        self.number += 1
        number = self.number
        if not state.exists:
            return self.save(session, SessionModel(True))
        choice = self.random.random()
        params: dict[str, Any] = {"session_id": session}
        if choice < 0.6:
            count = self.random.choice((1, 1, 1, 3))
            turns = [{"role": "user", "content": f"t{number}.{i}", "duration_ms": 5} for i in range(count)]
            return self.ask("session.add_turn", {**params, "turns": turns})
        if choice < 0.7 and state.turns:
            index = self.random.choice((-1, -1, self.random.randrange(len(state.turns))))
            return self.ask("session.amend_turn", {**params, "set": {"content": f"a{number}"}, "index": index})
        if choice < 0.78:
            return self.ask("session.record_interruption", params)
        if choice < 0.86:
            status = "ended" if state.status == "ended" else self.random.choice(("active", "on_hold"))
            return self.ask("session.update", {**params, "set": {"n": number, "status": status}})
        if choice < 0.94:
            saved = SessionModel(True, "active", [*state.turns, f"s{number}"], state.interruptions, number)
            if self.random.random() < 0.3:
                saved.turns = saved.turns[-2:]
            return self.save(session, saved)
        if choice < 0.97:
            return self.ask("session.end", {**params, "reason": "caller_hangup"})
        return self.ask("session.delete", params)

    def save(self, session: str, state: SessionModel) -> dict[str, Any]:
        """A save that leads to this state."""
        history = [
            {"role": "user", "content": content, "timestamp": "2026-01-01T00:00:00Z", "duration_ms": 5}
            for content in state.turns
        ]
        document = {
            "id": session,
            "status": state.status,
            "history": history,
            "metrics": {"turn_count": len(history), "interruption_count": state.interruptions},
            "n": state.counter,
        }
        return self.ask("session.save", {"session": document})

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """A request, under the present number."""
        return {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}


class Oracle:
    """Drives one daemon.

    Args:
        socket: where it listens.
        seed: of the requests.
        connections: how many at a time.
        sessions: how many per connection.
    """

    def __init__(self, socket: Path, seed: int, connections: int = 6, sessions: int = 5) -> None:
        self.socket = socket
        self.requests = RequestMaker(seed)
        self.groups = [[f"c{c}-{s}" for s in range(sessions)] for c in range(connections)]
        self.sessions = {session: SessionLog() for group in self.groups for session in group}
        self.acknowledged = 0

    # -- requests -------------------------------------------------------------------------------------------

    async def drive(self, kill_after: int, kill: Any) -> None:
        """Send requests until so many were acknowledged, then call `kill` while others are pending."""
        target = self.acknowledged + kill_after
        tasks = [asyncio.ensure_future(self._worker(group)) for group in self.groups]
        while self.acknowledged < target:
            done, _ = await asyncio.wait(tasks, timeout=0.0005)
            for task in done:
                task.result()  # a worker returns only when the daemon has exited, and raises at a wrong reply
        await kill()
        await asyncio.gather(*tasks)

    async def _worker(self, group: list[str]) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self.socket), limit=1 << 24)
        pending: dict[int, tuple[str, dict[str, Any]]] = {}
        try:
            while True:
                while len(pending) < WINDOW:
                    session = self.requests.random.choice(group)
                    log = self.sessions[session]
                    request = self.requests.next(session, log.now)
                    log.requests.append(request)
                    log.now = log.now.after(request)
                    pending[request["id"]] = (session, request)
                    writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()
                line = await reader.readline()
                if not line.endswith(b"\n"):
                    return
                reply = json.loads(line)
                if reply.get("error", {}).get("data", {}).get("kind") == "shutting_down":
                    return  # a clean stop: this request and all later ones were refused
                self._note(reply, pending)
        except ConnectionError:
            return
        finally:
            writer.close()

    def _note(self, reply: dict[str, Any], pending: dict[int, tuple[str, dict[str, Any]]]) -> None:
        assert "result" in reply, reply
        session, request = pending.pop(reply["id"])
        log = self.sessions[session]
        place = log.requests.index(request)
        log.acknowledged = max(log.acknowledged, place + 1)
        self.acknowledged += 1

    # -- checking -------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Check every session against its possible states, and begin the next round from the one it has."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket), limit=1 << 24)
        try:
            for session, log in self.sessions.items():
                request = self.requests.ask("session.load", {"session_id": session})
                writer.write(json.dumps(request).encode() + b"\n")
                found = found_in(json.loads(await reader.readline()))
                log.base = self._match(session, log, found)
                log.now = log.base
                log.requests, log.acknowledged = [], 0
        finally:
            writer.close()

    @staticmethod
    def _match(session: str, log: SessionLog, found: SessionModel) -> SessionModel:
        state = log.base
        for request in log.requests[: log.acknowledged]:
            state = state.after(request)
        if state == found:
            return found
        for request in log.requests[log.acknowledged :]:
            state = state.after(request)
            if state == found:
                return found
        raise AssertionError(
            f"{session}: {log.acknowledged} of {len(log.requests)} requests were acknowledged, and no "
            f"prefix of them leads to the state found: {found}"
        )
