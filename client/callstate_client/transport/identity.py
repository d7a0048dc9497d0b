"""Who a store is to the daemon: a worker of its own, in a process that its workers share."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Collection
from typing import Final, NamedTuple

from callstate_client import protocol
from callstate_client.protocol.ids import MAX_NAME_BYTES

_MAX_HOST: Final = 40
"""Of a host's name so much is in a worker's id, which has 64 bytes with pid and random part."""

_processes: dict[int, str] = {}


def own_worker_id() -> str:
    """An id for a worker that was given none: tells host and pid to who reads it, and is like no other's."""
    host = re.sub("[^!-~]", "-", socket.gethostname())
    return f"{host[:_MAX_HOST]}-{os.getpid()}-{secrets.token_hex(3)}"


def own_process() -> str:
    """What this process calls itself, to which all of its workers belong. A forked child has another name; the pid
    is asked for each time, since a fork in C runs no hook of ours."""
    return _processes.setdefault(os.getpid(), secrets.token_hex(8))


class Identity(NamedTuple):
    """What all connections of one store say of themselves.

    Args:
        worker_id: the worker's.
        instance: this store's, like no other's: two stores of one worker id still hold calls each by itself.
    """

    worker_id: str
    instance: str

    @classmethod
    def of(cls, worker_id: str | None) -> Identity:
        """A new store's, under this worker id or one of its own."""
        return cls(own_worker_id() if worker_id is None else worker_id, secrets.token_hex(8))

    def in_child(self) -> Identity:
        """A forked child's, which is another worker."""
        pid = f".{os.getpid()}"
        return Identity.of(self.worker_id[: MAX_NAME_BYTES - len(pid)] + pid)

    def introduction(self, features: Collection[str]) -> protocol.RegisterParams:
        """What to register with at a daemon that has these features."""
        params = protocol.RegisterParams(worker_id=self.worker_id)
        if protocol.INSTANCE in features:
            params.instance, params.process = self.instance, own_process()
        return params
