"""A read-only view of a held call's state, since changes made to it would never be sent."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from callstate_client.model.state import SessionState

__all__ = ["StateView", "shown"]

INSTEAD: Final = {
    "add_turn": "call.add_turn(…)",
    "append_turn": "call.add_turn(…)",
    "history": "call.add_turn(…), or amend(…) of what it returned",
    "record_interruption": "call.record_interruption()",
}
"""The call's method for each attempt to change the state."""


class StateView(SessionState):
    """A SessionState that shows the present values of another one, and can't be changed.

    What it contains (`metrics`, `recovery_data`, `history`) is not copied, and must not be changed either.
    """

    __slots__ = ("_shown",)

    _shown: SessionState

    def __init__(self, shown: SessionState) -> None:
        object.__setattr__(self, "_shown", shown)

    def __getattribute__(self, name: str) -> Any:
        if name in ("add_turn", "append_turn", "record_interruption"):
            return lambda *_, **__: _refuse(name)
        if name == "__class__":
            return StateView
        return getattr(object.__getattribute__(self, "_shown"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse(name)

    def __delattr__(self, name: str) -> None:
        _refuse(name)


def shown(state: SessionState) -> SessionState:
    """The state itself, if this is a view of one."""
    return object.__getattribute__(state, "_shown") if type(state) is StateView else state


def _refuse(name: str) -> NoReturn:
    instead = INSTEAD.get(name, f"call.update({name}=…)")
    raise AttributeError(f"call.state is read-only: use {instead}")
