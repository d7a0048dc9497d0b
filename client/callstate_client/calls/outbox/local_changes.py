"""Changes of a held call's state in its worker's memory that can be undone.

The worker's view runs ahead of the daemon. When the daemon refuses a mutation, the view must become what the daemon
has: later changes are undone, newest first, then the refused one; the later ones are then made again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from callstate_client.model.state import Role, SessionState
from callstate_client.model.turn import Turn
from callstate_client.requests.patches import find_last_turn, patch_state, patched_turn, replace_head

__all__ = [
    "Change",
    "HeadPatched",
    "Interrupted",
    "LastTurnAmended",
    "Patched",
    "Replaced",
    "Switched",
    "TurnAdded",
    "TurnAmended",
]


class Change:
    """One change of a view. It can be made, undone and made again."""

    __slots__ = ()

    def make(self) -> None:
        """Change the view.

        Raises:
            CallstateError: it can't be made in this view, which is unchanged.
        """
        raise NotImplementedError

    def undo(self) -> None:
        """Undo it. Everything that was changed after it has been undone already."""
        raise NotImplementedError


class TurnAdded(Change):
    """A turn was appended."""

    __slots__ = ("_responses_before", "_state", "turn")

    def __init__(self, state: SessionState, turn: Turn) -> None:
        self._state = state
        self.turn = turn
        self._responses_before: tuple[int, int, dict[str, Any]] | None = None

    def make(self) -> None:
        if self.turn.has_extra and self.turn.response_ms is not None:
            metrics = self._state.metrics
            self._responses_before = (metrics.first_response_ms, metrics.average_response_ms, dict(metrics.extra))
        self._state.append_turn(self.turn)

    def undo(self) -> None:
        history, metrics = self._state.history, self._state.metrics
        for place in reversed(range(len(history))):
            if history[place] is self.turn:
                del history[place]
                metrics.turn_count -= 1
                if self._responses_before is not None:
                    metrics.first_response_ms, metrics.average_response_ms, metrics.extra = self._responses_before
                if self.turn.role == Role.USER:
                    metrics.user_speech_duration_ms -= self.turn.duration_ms
                elif self.turn.role == Role.AGENT:
                    metrics.agent_speech_duration_ms -= self.turn.duration_ms
                return


class Patched(Change):
    """A merge patch was applied. A later one, already made, may be merged into `patch`."""

    __slots__ = ("patch",)

    def __init__(self, patch: dict[str, Any]) -> None:
        self.patch = patch


class TurnAmended(Patched):
    """A turn was patched; its speech time stays as counted."""

    __slots__ = ("_before", "turn")

    def __init__(self, turn: Turn, patch: dict[str, Any]) -> None:
        super().__init__(patch)
        self.turn = turn
        self._before: Turn | None = None

    def make(self) -> None:
        after, self._before = patched_turn(self.turn, self.patch), patched_turn(self.turn, {})
        self.turn.become(after)

    def undo(self) -> None:
        if self._before is not None:
            self.turn.become(self._before)


class LastTurnAmended(TurnAmended):
    """The turn that is the last one, or the last one of a role, when the change is made was patched."""

    __slots__ = ("_role", "_state")

    def __init__(self, state: SessionState, role: str | None, patch: dict[str, Any]) -> None:
        super().__init__(find_last_turn(state, role), patch)
        self._state = state
        self._role = role

    def make(self) -> None:
        self.turn = find_last_turn(self._state, self._role)
        super().make()


class HeadPatched(Patched):
    """Members of the head were patched."""

    __slots__ = ("_before", "_state")

    def __init__(self, state: SessionState, patch: dict[str, Any]) -> None:
        super().__init__(patch)
        self._state = state
        self._before: dict[str, Any] = {}

    def make(self) -> None:
        before = self._state.to_members(with_history=False)
        patch_state(self._state, self.patch)
        self._before = before

    def undo(self) -> None:
        members = self._state.to_members(with_history=False)
        for name in self.patch:
            if name in self._before:
                members[name] = self._before[name]
            else:
                members.pop(name, None)
        replace_head(self._state, members)


class Interrupted(Change):
    """An interruption was counted."""

    __slots__ = ("_state",)

    def __init__(self, state: SessionState) -> None:
        self._state = state

    def make(self) -> None:
        self._state.record_interruption()

    def undo(self) -> None:
        self._state.metrics.interruption_count -= 1


class Replaced(Change):
    """The state was replaced by a saved one, as it was when that was queued."""

    __slots__ = ("_after", "_before", "_state")

    def __init__(self, state: SessionState, after: bytes) -> None:
        self._state = state
        self._after = after
        self._before: SessionState | None = None

    def make(self) -> None:
        after, before = SessionState.from_json(self._after), SessionState()
        before.take_over(self._state)  # the same objects: handles of turns know them by identity
        self._state.take_over(after)
        self._before = before

    def undo(self) -> None:
        if self._before is not None:
            self._state.take_over(self._before)


class Switched(Change):
    """The call has ended, as its worker sees it."""

    __slots__ = ("_before", "_set_ended", "_state")

    def __init__(self, state: SessionState, set_ended: Callable[[bool], None]) -> None:
        self._state = state
        self._set_ended = set_ended
        self._before = ""

    def make(self) -> None:
        self._before, self._state.status = self._state.status, "ended"
        self._set_ended(True)

    def undo(self) -> None:
        self._state.status = self._before
        self._set_ended(False)
