"""Why a session is suspected, has no owner, or has ended: the reasons used in events and documents."""

from __future__ import annotations

from typing import Final

SILENT: Final = "heartbeat_timeout"
"""Suspected or ended: there was no sign of life for its timeout."""

EXITED: Final = "worker_exited"
"""Suspected or ended: the process of its owner has exited."""

OVERTIME: Final = "max_duration"
"""Ended: it reached its maximum duration."""

POISONED: Final = "poisoned"
"""Ended: too many of its claimers crashed."""

HOST_LOST: Final = "host_lost"
"""An orphan: the host that had it is dead, and this one has taken it over."""

STOLEN: Final = "stolen"
"""Taken from a host or a worker that may be alive."""

UNOWNED: Final = "unowned"
"""Claimed: it had no owner yet."""

REAPED: Final = "reaped"
"""Claimed: the daemon had ended it not long ago."""

RELEASED: Final = "released"
"""An orphan: its owner gave it up."""

DISCONNECTED: Final = "disconnected"
"""An orphan: its owner lost its connection, may be alive, and did not reconnect in time."""

OPERATOR: Final = "operator"
"""Ended: somebody outside the call ended it, such as software that writes to the store directly."""
