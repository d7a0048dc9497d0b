"""This host's lease: that it is alive, and that it is the only one with its host id.

A daemon raises the counter of its host and writes beside it which daemon it is, a random name of each start. Where
another name is found there, another daemon may be running under the same host id: on a cloned machine, or with
`host.id` configured twice. It runs if the counter moves. The daemon's own predecessor does not run, for the state
directory is locked; it is known by the name and the counter that it noted there.

Where the store is away at the start, nobody knows, and both of two daemons with one id serve. So a daemon writes
nothing to the store until it holds the lease: the journal has what it acknowledges. If nobody has the lease at the
first contact, the store may have lost it: a daemon that had it raises it again within a round, so one that never
had it waits for so long.

The counter is raised several times in a lease, so that a lost round or two kill nobody.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from callstate_client.engine.sessions.stored import StoreDownError
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.stores.hosts import HostRegistry, LeaseReply
from callstate_sidecar.system.files import Files, open_kept
from callstate_sidecar.system.state_dir import AlreadyRunningError

log = EventLog(__name__)

RAISE_EVERY_S: Final = 5.0
RAISES_A_LEASE: Final = 4
"""The counter is raised at least this often per lease, so more often if the lease is short."""

LOOKS_AN_INTERVAL: Final = 4

NOTE_NAME: Final = "lease"


class HostIdTakenError(AlreadyRunningError):
    """Another daemon with the same host id is alive."""


class LeaseNote:
    """What the state directory remembers of the lease: the name of the daemon that held it last, and the counter.

    Written without a sync, and not at all where the disk is full or something else has its name: what is lost costs
    the next start a look at the counter.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[str, int] | None:
        """Name and counter; None if there is no complete note."""
        try:
            name, counter = self._path.read_text("ascii").split()
            return name, int(counter)
        except (OSError, ValueError):
            return None

    def write(self, name: str, counter: int) -> None:
        """Replace the note, where it can be written."""
        with suppress(OSError):  # the journal reports a full disk
            fd = open_kept(self._path)
            try:
                Files().write(fd, b"%s %020d\n" % (name.encode(), counter), 0)
            finally:
                os.close(fd)


class HostLease:
    """The lease of this host.

    Args:
        registry: the hosts of the store.
        note: in the state directory.
        host_id: for messages.
        lease_s: `store.host_lease_s`.
    """

    def __init__(self, registry: HostRegistry, note: LeaseNote, host_id: str, lease_s: float) -> None:
        self._registry = registry
        self._note = note
        self._host_id = host_id
        self.interval_s = min(RAISE_EVERY_S, lease_s / RAISES_A_LEASE)
        """How often it is raised, seconds."""
        self.instance = secrets.token_hex(8)
        self._noted = note.read()
        self.is_ours = False
        """Whether, when the counter was last raised, this daemon was known to be the only one with its host id."""

    def check(self) -> None:
        """Refuse what changes the store, until the lease is held.

        Raises:
            StoreDownError: it is not.
        """
        if not self.is_ours:
            raise StoreDownError("it is not known yet whether another daemon has this host's id")

    async def renew(self, check: Callable[[], None] = lambda: None) -> LeaseReply:
        """Raise the counter. Where another daemon may hold the lease, this takes until it is known whether it runs.

        Args:
            check: called while this waits; may raise.

        Raises:
            HostIdTakenError: it runs.
            StoreError: the store can't say.
        """
        seen = await self._registry.raise_lease(self.instance)
        while seen.instance != self.instance:
            self.is_ours = False
            if not self._is_predecessor(seen):
                await self._stands_still(seen, check)
            seen = await self._registry.raise_lease(self.instance, instead_of=seen)
        self.is_ours = True
        self._noted = self.instance, seen.counter
        self._note.write(self.instance, seen.counter)
        return seen

    def _is_predecessor(self, seen: LeaseReply) -> bool:
        """Whether the lease is as the last daemon over this state directory left it; it may have died before it
        noted the last counter."""
        if self._noted is None:
            return False
        name, counter = self._noted
        return seen.instance == name and seen.counter - counter in (0, 1)

    async def _stands_still(self, seen: LeaseReply, check: Callable[[], None]) -> None:
        """Watch the counter of another daemon for two intervals.

        Raises:
            HostIdTakenError: it moves.
        """
        log.warning(
            "host_id_watched", "another daemon has used host id %s; watching whether it still runs", self._host_id
        )
        for _ in range(2 * LOOKS_AN_INTERVAL):
            await asyncio.sleep(self.interval_s / LOOKS_AN_INTERVAL)
            check()
            now = await self._registry.raise_lease(self.instance)
            if now.instance == self.instance:
                return
            if now.counter != seen.counter:
                raise HostIdTakenError(
                    f"another callstated with host id {self._host_id} is running and uses the same store; give each"
                    " host an id of its own (host.id)"
                )
