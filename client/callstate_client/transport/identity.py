"""The identity of a store at the daemon: a worker of its own, in a process that may have several."""

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
"""Characters of the host name in a worker id, which with pid and random part has at most 64."""

_processes: dict[int, str] = {}


def own_worker_id() -> str:
    """A unique id for a worker that was given none. Operators can read host and pid from it."""
    host = re.sub("[^!-~]", "-", socket.gethostname())
    return f"{host[:_MAX_HOST]}-{os.getpid()}-{secrets.token_hex(3)}"


def own_process() -> str:
    """A random name of this process, which all of its workers share. A forked child has another one: the pid is
    looked up each time, since a fork made in C runs no Python hooks."""
    return _processes.setdefault(os.getpid(), secrets.token_hex(8))


class Identity(NamedTuple):
    """The worker that all connections of one store are registered for.

    Args:
        worker_id: of the worker.
        instance: a random name of this store: two stores with the same worker id still hold their calls separately.
    """

    worker_id: str
    instance: str

    @classmethod
    def of(cls, worker_id: str | None) -> Identity:
        """The identity of a new store, with this worker id, or a generated one if it is None."""
        return cls(own_worker_id() if worker_id is None else worker_id, secrets.token_hex(8))

    def in_child(self) -> Identity:
        """The identity of the store in a forked child, which is another worker."""
        pid = f".{os.getpid()}"
        return Identity.of(self.worker_id[: MAX_NAME_BYTES - len(pid)] + pid)

    def registration(self, features: Collection[str]) -> protocol.RegisterParams:
        """The params of `worker.register` for a daemon with these features."""
        params = protocol.RegisterParams(worker_id=self.worker_id)
        if protocol.INSTANCE in features:
            params.instance, params.process = self.instance, own_process()
        return params
