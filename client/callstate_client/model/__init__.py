"""Sessions as workers see them: SessionState and its parts, and their JSON, which is shared with Go programs."""

from callstate_client.model.history import History
from callstate_client.model.members import encode_members
from callstate_client.model.metrics import SessionMetrics
from callstate_client.model.state import Direction, Role, SessionState, Status
from callstate_client.model.turn import Turn

__all__ = ["Direction", "History", "Role", "SessionMetrics", "SessionState", "Status", "Turn", "encode_members"]
