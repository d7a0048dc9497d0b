"""Connecting to the daemon, without I/O: which places are tried, the handshake, and what failures mean.

The asyncio and the blocking front connect alike; they differ only in how they open a socket and wait. An `Attempt`
goes once through the places where the socket may be and records why each failed. On a new connection `handshake` is
the dialogue before any other request: `server.info`, which returns the protocol version and the features, then, for
a worker, `worker.register`.

What follows from a failure:

- No socket at a place: the next place is tried. Any other failure ends the attempt, since a daemon at another place
  would not know our calls.
- Attempts are repeated, with `backoff.CONNECT` in between, for as long as the caller waits for the daemon.
- A daemon that refuses this worker, or speaks another protocol (`REFUSALS`), would do so again: opening a store
  fails at once. A store that reconnects keeps trying, since the other worker may leave, or the daemon be replaced.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from callstate_client.errors import (
    CallstateError,
    ConflictError,
    ForbiddenError,
    InternalError,
    InvalidParamsError,
    MethodNotFoundError,
    OverloadedError,
    UnsupportedProtocolError,
)
from callstate_client.protocol.messages import check_protocol, decode_members, decode_register, encode_request
from callstate_client.transport.discovery import Candidate, Tried, describe, no_daemon, refusal
from callstate_client.transport.identity import Identity

REFUSALS: Final = (ConflictError, ForbiddenError, InvalidParamsError, UnsupportedProtocolError)
"""What a healthy daemon answers to a worker that it refuses, or to a client of another protocol version."""


class Greeting(NamedTuple):
    """What a daemon said in the handshake.

    Args:
        info: the result of `server.info`.
        drain: whether the host refuses new sessions; None if no worker was registered.
    """

    info: dict[str, Any]
    drain: bool | None

    @property
    def features(self) -> Collection[str]:
        """The optional parts of the protocol that the daemon has."""
        return frozenset(self.info.get("features", ()))


def handshake(identity: Identity | None, request_id: int) -> Generator[bytes, bytes, Greeting]:
    """The dialogue on a new connection: yields each line to send, is sent the line of its reply, returns the
    outcome.

    Args:
        identity: the worker to register the connection for; None: none.
        request_id: of each of its requests.

    Raises:
        WireError: the daemon refuses, or its reply can't be read (InternalError).
        UnsupportedProtocolError: it speaks another version of the protocol.
    """
    info = check_protocol(decode_members((yield encode_request(request_id, "server.info"))))
    greeting = Greeting(info, None)
    if identity is not None:
        params = identity.registration(greeting.features)
        reply = yield encode_request(request_id, "worker.register", params)
        with suppress(MethodNotFoundError):  # an older daemon, which knows no workers
            greeting = Greeting(info, decode_register(reply).drain)
    return greeting


class Attempt:
    """One attempt to reach a daemon: iterate over it, connect to each place, and report what failed.

    Args:
        places: where to look, in order.
    """

    def __init__(self, places: Sequence[Candidate]) -> None:
        self.places = places
        """The places to look at; only one if a daemon was found there before."""
        self.tried: list[Tried] = []
        self.refused: CallstateError | None = None
        """The daemon's refusal, if it is one of REFUSALS."""

    def __iter__(self) -> Iterator[Candidate]:
        """The places to connect to, until a failure is final. Each failure must be passed to `failed`."""
        uid = os.getuid()
        for place in self.places:
            unusable = refusal(place, uid)
            if unusable is None:
                yield place
            else:
                self.tried.append(unusable)
            if self.tried[-1].final:
                return

    def failed(self, place: Candidate, error: OSError | CallstateError) -> None:
        """Record why a place failed."""
        if not isinstance(error, CallstateError):
            self.tried.append(describe(place, error))
            return
        if isinstance(error, REFUSALS):
            self.refused = error
        foreign = isinstance(error, InternalError)
        why = f"the program listening there does not answer like callstated: {error}" if foreign else str(error)
        self.tried.append(Tried(place.path, why, final=True, refused=isinstance(error, OverloadedError)))

    def check(self, left_s: float) -> None:
        """Raise if it is useless to try again.

        Args:
            left_s: how long the caller would keep trying, seconds.

        Raises:
            ConflictError, ForbiddenError, InvalidParamsError, UnsupportedProtocolError: as the daemon said.
            NoDaemonError: the time is up, or no daemon can ever be there.
        """
        if self.refused is not None:
            raise self.refused
        if left_s <= 0 or any(place.hopeless for place in self.tried):
            raise no_daemon(self.tried)
