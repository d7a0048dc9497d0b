"""What each verb needs of the user that sends it, as data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class Need(Enum):
    """What a request needs."""

    NOTHING = auto()
    """Whoever may connect may do this."""
    SESSION = auto()
    """To own the session that its params name, if there is one."""
    CLAIM = auto()
    """The same, and that the worker id is the user's own or nobody's; to be an operator if it steals."""
    SESSIONS = auto()
    """To own all sessions that its params name; to be an operator if they name none."""
    WORKER = auto()
    """That the worker id that its params name is the user's own or nobody's."""
    FILTERED = auto()
    """Nothing, for the verb shows or takes only what its user owns."""
    ITSELF = auto()
    """To own the session, which the verb checks itself once it has read which one it is."""
    OPERATOR = auto()
    """To be an operator."""


NEEDS: Final[Mapping[str, Need]] = {
    "session.save": Need.ITSELF,
    "session.load": Need.SESSION,
    "session.delete": Need.SESSION,
    "session.list_active": Need.FILTERED,
    "session.list": Need.FILTERED,
    "session.heartbeat": Need.SESSION,
    "session.add_turn": Need.SESSION,
    "session.amend_turn": Need.SESSION,
    "session.record_interruption": Need.SESSION,
    "session.update": Need.SESSION,
    "session.end": Need.SESSION,
    "session.claim": Need.CLAIM,
    "session.claim_next": Need.WORKER,
    "session.release": Need.SESSION,
    "worker.register": Need.WORKER,
    "worker.list": Need.FILTERED,
    "events.subscribe": Need.FILTERED,
    "quarantine.list": Need.OPERATOR,
    "quarantine.show": Need.OPERATOR,
    "quarantine.retry": Need.OPERATOR,
    "quarantine.drop": Need.OPERATOR,
    "server.ping": Need.NOTHING,
    "server.info": Need.NOTHING,
    "server.stats": Need.NOTHING,
    "server.config": Need.NOTHING,
    "server.flush": Need.SESSIONS,
    "server.erase": Need.OPERATOR,
    "server.check": Need.OPERATOR,
    "server.drain": Need.OPERATOR,
}
"""By method. `session.claim_next` also takes only what its user owns."""
