"""Comparing sessions with the versions that Redis is known to have, without reading documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from callstate_client.engine.sessions.stored import StoreRefusingError
from callstate_sidecar.stores.backend import Deviation, StoredVersion
from callstate_sidecar.stores.redis.client import ScriptCall, ScriptClient
from callstate_sidecar.stores.redis.cluster_sets import ClusterSets
from callstate_sidecar.stores.redis.errors import describe
from callstate_sidecar.stores.redis.layout import Layout, id_bytes, id_text
from callstate_sidecar.stores.redis.mark import Mark
from callstate_sidecar.stores.redis.write_scripts import CHECK


class Comparison:
    """Compares sessions of this host with the store, and renews their TTLs.

    Args:
        client: runs the scripts.
        host_id: the host that has written the sessions.
        ttl_ms: how long a session stays after its last write, milliseconds.
        mark: of the server; not used on a cluster.
        sets: the shared keys of a cluster; None for a single server, where the script looks at them.
    """

    def __init__(
        self, client: ScriptClient, keys: Layout, host_id: str, ttl_ms: int, mark: Mark, sets: ClusterSets | None
    ) -> None:
        self._client = client
        self._keys = keys
        self._host_id = host_id
        self._ttl_ms = ttl_ms
        self._mark = mark
        self._sets = sets

    async def check(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Deviation]]:
        """Compare sessions, and renew TTLs of which a quarter has passed; returns those that deviate."""
        found = await (self._check_each(sessions) if self._sets else self._check_all(sessions))
        renewed = {session.call_id for session, what in found if what == "renewed" and session.call_id}
        if self._sets is not None:
            await self._sets.renew(renewed)
        else:
            for call_id in renewed:
                await self._client.command("PEXPIRE", self._keys.call(call_id), self._ttl_ms)
        return [(session.session_id, Deviation(what)) for session, what in found if what != "renewed"]

    async def _check_all(self, sessions: Sequence[StoredVersion]) -> list[tuple[StoredVersion, str]]:
        """Compare them in one script."""
        confirmed = self._mark.confirmed
        keys = [self._keys.active, self._keys.host_sessions(self._host_id), self._keys.mark(self._host_id)]
        args: list[Any] = [self._ttl_ms, self._host_id, 1]
        for session in sessions:
            keys += self._keys.document(session.session_id)
            args += (id_bytes(session.session_id), session.version, int(session.live))
        (answer,) = await self._client.run_each([ScriptCall(CHECK, keys, args)])  # packed in C, unlike by `run`
        if isinstance(answer, ResponseError):
            raise StoreRefusingError(describe(answer))
        value, *reply = answer
        if not self._mark.is_kept(value, confirmed):
            return []  # the server has lost everything, which `check_for_loss` is about to find
        return [(sessions[index], id_text(what)) for index, what in zip(reply[::2], reply[1::2], strict=True)]

    async def _check_each(self, sessions: Sequence[StoredVersion]) -> list[tuple[StoredVersion, str]]:
        """Compare them in a script each, as they are in different slots."""
        replies = await self._client.run_each([
            ScriptCall(CHECK, self._keys.document(session.session_id), [
                self._ttl_ms, self._host_id, 0, id_bytes(session.session_id), session.version, int(session.live),
            ])
            for session in sessions
        ])  # fmt: skip
        found = zip(sessions, replies, strict=True)
        return [(session, id_text(reply[2])) for session, reply in found if isinstance(reply, list) and reply[1:]]
