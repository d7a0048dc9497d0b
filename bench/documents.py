"""The sessions used for measuring: 20 turns are 4.4 kB of JSON, 200 are 40 kB."""

from __future__ import annotations

from typing import Final

ROLE: Final = "user"
CONTENT: Final = (
    "and then I would like to change the booking from Tuesday to Thursday, if there is still a table free"
)
DURATION_MS: Final = 900
"""The turn that add_turn adds, the same for all subjects."""

_TURN: Final = (
    '{"role":"%s","content":"%d %s","timestamp":"2026-01-01T00:%02d:%02d.123456Z","duration_ms":%d,'
    '"confidence":0.97}'
)
_SESSION: Final = (
    '{"id":"%s","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","call_id":"CA%s",'
    '"provider":"twilio","direction":"inbound","from":"+442079460123","to":"+15550100","status":"active",'
    '"history":[%s],"metrics":{"turn_count":%d,"interruption_count":2,"user_speech_duration_ms":%d,'
    '"agent_speech_duration_ms":%d,"first_response_ms":640},"recovery_data":{"node":"booking","slots":{"day":"Thu"}}}'
)


def history(turns: int, content: str = CONTENT) -> str:
    """The turns of one session as JSON, joined by commas."""
    return ",".join(
        _TURN % ("agent" if n % 2 else "user", n, content, n // 60 % 60, n % 60, DURATION_MS) for n in range(turns)
    )


def document(session_id: str, turns: int, joined: str | None = None) -> bytes:
    """A session as JSON, as a store holds it.

    Args:
        session_id: of the call.
        turns: number of turns.
        joined: `history(turns)`, if many documents share it.
    """
    said = (turns // 2 + turns % 2) * DURATION_MS, turns // 2 * DURATION_MS
    text = _SESSION % (session_id, session_id, history(turns) if joined is None else joined, turns, *said)
    return text.encode()


def documents(session_ids: list[str], turns: int) -> dict[str, bytes]:
    """For each id, a session of this many turns."""
    joined = history(turns)
    return {session_id: document(session_id, turns, joined) for session_id in session_ids}
