"""Liveness with sessions that are told by their ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from callstate_client.engine.liveness import Liveness
from callstate_client.engine.phases import Evidence, Phase
from callstate_client.engine.sessions.session import Session
from support.table_harness import new_session


class NamedLiveness:
    """A Liveness of sessions that are made as they are named."""

    def __init__(self, timeout_s: float, grace_s: float, retention_s: float) -> None:
        self.inner = Liveness(timeout_s, grace_s, retention_s)
        self._sessions: dict[str, Session] = {}

    def session(self, name: str) -> Session:
        """The session of this id."""
        if name not in self._sessions:
            self._sessions[name] = new_session(name)
        return self._sessions[name]

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def suspects(self) -> list[str]:
        """The ids of the suspects, in the order of claiming."""
        return [*self.inner.suspects]

    @property
    def ended(self) -> list[str]:
        """The ids of the ended ones, in the order of their ends."""
        return [session.id for session in self.inner.ended]

    @property
    def spans(self) -> set[float]:
        """The timeouts of the lanes of live sessions."""
        return {*self.inner._live}

    def phase(self, name: str) -> Phase | None:
        return self.inner.phase(self.session(name))

    def watch(self, name: str, now: float, timeout_s: float | None = None) -> None:
        self.inner.watch(self.session(name), now, timeout_s)

    def keep(self, name: str, now: float) -> None:
        self.inner.keep(self.session(name), now)

    def beat(self, name: str, now: float, timeout_s: float | None = None) -> Phase | None:
        return self.inner.beat(self.session(name), now, timeout_s)

    def learn(self, name: str, evidence: Evidence, now: float, *args: Any, **more: Any) -> Phase | None:
        return self.inner.learn(self.session(name), evidence, now, *args, **more)

    def forget(self, name: str) -> None:
        self.inner.forget(self.session(name))

    def retime(self, name: str, timeout_s: float | None) -> None:
        self.inner.retime(self.session(name), timeout_s)

    def deadline(self, name: str) -> float:
        return self.inner.deadline(self.session(name))

    def limit(self, name: str, deadline: float | None) -> None:
        self.inner.limit(self.session(name), deadline)

    def step_back(self, now: float) -> None:
        self.inner.step_back(now)

    def next_deadline(self) -> float | None:
        return self.inner.next_deadline()

    def due(self, now: float) -> Iterator[tuple[str, Phase, Evidence]]:
        return ((session.id, phase, evidence) for session, phase, evidence in self.inner.due(now))
