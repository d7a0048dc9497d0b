"""What a process calls itself as a worker where nobody says."""

from __future__ import annotations

import os
import re
import secrets
import socket
from typing import Final

_MAX_HOST: Final = 40
"""Of a host's name so much is in a worker's id, which has 64 bytes with pid and random part."""

_RANDOM: Final = secrets.token_hex(3)


def own_worker_id() -> str:
    """What this process calls itself as a worker: tells host and pid to who reads it, and is like no other's."""
    host = re.sub("[^!-~]", "-", socket.gethostname())
    return f"{host[:_MAX_HOST]}-{os.getpid()}-{_RANDOM}"
