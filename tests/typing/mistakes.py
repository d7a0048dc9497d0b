"""What a type checker shall complain of: once on each line that ends in `# wrong`, and nowhere else. Never run."""

from __future__ import annotations

from callstate_client import CallStore, SessionState, Turn


async def mistakes(store: CallStore) -> None:
    """Each of them has been made."""
    async with store.hold(SessionState(id="c1"), end_on=7) as call:  # wrong
        await call.update(statsu="active")  # wrong
        await call.update(status=7)  # wrong
        call.add_turn("user", "hello", confidence=0.9)  # wrong
        text: str = await call.add_turn("user", "hello")  # wrong
        assert text
    Turn("user", "x", 900)  # wrong
    turn = Turn("user", "x")
    turn.content = 7  # wrong
