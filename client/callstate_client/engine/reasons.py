"""Why a session is suspected, has no owner, or has ended: the words for it that go into events and documents."""

from __future__ import annotations

from typing import Final

SILENT: Final = "heartbeat_timeout"
"""Suspected or ended: nothing was heard of it for its timeout."""

EXITED: Final = "worker_exited"
"""Suspected or ended: the process of its owner has exited."""

OVERTIME: Final = "max_duration"
"""Ended: it lasted longer than it was allowed to."""

POISONED: Final = "poisoned"
"""Ended: too many of those who claimed it died of it."""

HOST_LOST: Final = "host_lost"
"""An orphan: the host that had it is dead, and this one has taken it over."""

STOLEN: Final = "stolen"
"""Taken from a host or a worker that may be alive."""

RELEASED: Final = "released"
"""An orphan: its owner gave it up."""

DISCONNECTED: Final = "disconnected"
"""An orphan: its owner lost its connection, may live, and did not come back in time."""

OPERATOR: Final = "operator"
"""Ended: somebody outside the call ended it, such as software that writes to the store directly."""
