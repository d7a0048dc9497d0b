"""A connection of a daemon's core, in memory, for bytes that need not be requests."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from callstate_client.engine.sessions.records import Record, decode_record, encode_record
from callstate_client.engine.table.replay import replay
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.user import User
from callstate_sidecar import slices
from callstate_sidecar.serving import connection, group_commit, server
from support.core import Core, FakeClient

ROOT: Final = User(0, 0)
"""The user of the connections: one that may use every verb."""

LOOP_PASSES: Final = 12
"""Enough passes of the event loop for everything that is due: nothing here waits for anything outside."""

ROUNDS: Final = 100
"""Bound on the rounds of write-behind; two suffice."""


class LogInMemory:
    """In place of a journal: the records of all groups, encoded."""

    log_bytes = snapshot_bytes = unsynced = 0

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def append(self, records: Sequence[Record]) -> None:
        """Write a group."""
        self.bodies += map(encode_record, records)

    def disk_bytes(self) -> int:
        """Nothing is on disk."""
        return 0

    def replayed(self) -> SessionTable:
        """The table that a restart would restore."""
        table = SessionTable()
        for body in self.bodies:
            replay(table, decode_record(body))
        return table


class Peer(FakeClient):
    """A client that collects replies in their order, those to no id as well."""

    replies: list[Any]  # type: ignore[assignment]

    def __init__(self, core: Core) -> None:
        super().__init__(core, user=ROOT)
        self.replies = []

    def write(self, data: Any) -> None:
        """The daemon's replies, complete lines."""
        *lines, rest = bytes(data).split(b"\n")
        assert rest == b"", "half a line"
        for line in lines:
            reply = json.loads(line)
            (self.events if "method" in reply else self.replies).append(reply)


async def settled(core: Core) -> None:
    """Run the loop until nothing is due, and write what is dirty to the store, for which `server.flush` waits."""
    for _ in range(ROUNDS):
        for _ in range(LOOP_PASSES):
            await asyncio.sleep(0)
        if core.table.dirty.marks:
            await core.writer.write_round()
        elif not any(each.in_use or each.busy for each in core.server.connections):
            return
    raise AssertionError("it never settles")


@contextmanager
def untimed() -> Iterator[None]:
    """What one turn of the loop does, and so the order of replies, does not depend on how busy the machine is."""
    with ExitStack() as patches:
        for module in (connection, group_commit, server):
            patches.enter_context(patch.object(module, "monotonic", float))
        patches.enter_context(patch.object(slices, "SLICE_S", math.inf))
        yield
