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
"""How many characters of the host's name go into a worker id, which has at most 64 with pid and random part."""

_processes: dict[int, str] = {}


def own_worker_id() -> str:
    """A unique id for a worker that was given none; it shows host and pid to operators."""
    host = re.sub("[^!-~]", "-", socket.gethostname())
    return f"{host[:_MAX_HOST]}-{os.getpid()}-{secrets.token_hex(3)}"


def own_process() -> str:
    """A random name of this process, which all of its workers share. A forked child has another: the pid is looked
    up each time, since a fork made in C runs no hook of Python's."""
    return _processes.setdefault(os.getpid(), secrets.token_hex(8))


class Identity(NamedTuple):
    """Whom all connections of one store are registered for.

    Args:
        worker_id: of the worker.
        instance: a random name of this store: two stores with the same worker id still hold their calls separately.
    """

    worker_id: str
    instance: str

    @classmethod
    def of(cls, worker_id: str | None) -> Identity:
        """Of a new store, with this worker id or, where it is None, a generated one."""
        return cls(own_worker_id() if worker_id is None else worker_id, secrets.token_hex(8))

    def in_child(self) -> Identity:
        """Of the store in a forked child, which is another worker."""
        pid = f".{os.getpid()}"
        return Identity.of(self.worker_id[: MAX_NAME_BYTES - len(pid)] + pid)

    def registration(self, features: Collection[str]) -> protocol.RegisterParams:
        """The params of `worker.register` for a daemon that has these features."""
        params = protocol.RegisterParams(worker_id=self.worker_id)
        if protocol.INSTANCE in features:
            params.instance, params.process = self.instance, own_process()
        return params
