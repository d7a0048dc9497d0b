"""The inspection of the server for `callstate doctor`: settings, rights, clock, shared keys, sessions' keys.

All of it by harmless commands. Only `repair` changes anything, and only what no other program can depend on: ids
without a document leave the active set, and shared keys without a TTL get one.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from callstate_client.engine.sessions.stored import StoreRefusingError
from callstate_client.protocol.results import Finding
from callstate_sidecar.stores.backend import Flaw, StoredVersion
from callstate_sidecar.stores.redis.client import ScriptCall, ScriptClient
from callstate_sidecar.stores.redis.cluster_sets import remove_ghosts
from callstate_sidecar.stores.redis.inspection_scripts import ABSENT, EXAMINE, PROBE
from callstate_sidecar.stores.redis.layout import Layout, id_bytes, id_text
from callstate_sidecar.stores.redis.store_scripts import LIVE

OLDEST_VERSION: Final = (6, 2)

CLOCK_OFFSET_S: Final = 2.0
"""Times of several hosts are compared with each other: last heartbeats, and the ends that `ended_since` selects."""

IDS_A_STEP: Final = 250
"""Ids of the active set looked at in one step: about a millisecond of the loop on a cluster."""

MAX_GHOSTS: Final = 10_000
"""Ids without a document that one inspection deals with."""

_DENIED: Final = re.compile(r"no permissions|NOPERM|ACL failure|executing the script")

_RIGHTS: Final = "give the user the rights in docs/operations.md"
_TYPE: Final = "find out who wrote it, and rename or delete it"


class Inspection:
    """Inspects the servers of one URL.

    Args:
        client: runs scripts and commands.
        keys: the layout.
        host_id: whose keys are looked at.
        ttl_ms: of shared keys that have none, milliseconds.
    """

    def __init__(self, client: ScriptClient, keys: Layout, host_id: str, ttl_ms: int) -> None:
        self._client = client
        self._keys = keys
        self._host_id = host_id
        self._ttl_ms = ttl_ms

    async def server(self, wall_us: Callable[[], int], *, repair: bool) -> AsyncIterator[Finding]:
        """What is not as it should be with the server and the keys that all sessions share.

        Args:
            wall_us: this host's clock, microseconds since 1970.
            repair: also repair what can be.
        """
        denied = await self._denied()
        if denied:
            yield Finding("permission", f"the user may not run {', '.join(denied)}", _RIGHTS)
        if "INFO" not in denied:
            for info in await self._client.each_primary("INFO"):
                for finding in _settings(_fields(info)):
                    yield finding
        if "TIME" not in denied:
            for finding in await self._clock(wall_us):
                yield finding
        async for finding in self._shared_keys(repair=repair):
            yield finding
        async for finding in self._ghosts(repair=repair):
            yield finding

    # -- rights ---------------------------------------------------------------------------------------------

    async def _denied(self) -> list[str]:
        """The commands that this user may not run."""
        client, key = self._client, self._keys.document(f"@probe:{self._host_id}")
        attempts: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
            ("SCAN", lambda: client.scan("", "COUNT", 1)),
            *((name, partial(client.command, name, key[0], *args)) for name, *args in _ALONE),
            *((name, partial(client.each_primary, *name.split(), *args)) for name, *args in _WITHOUT_KEY),
        ]
        denied = set[str]()
        try:
            denied.update(map(id_text, await client.run(PROBE, key)))
        except StoreRefusingError as error:
            if _DENIED.search(str(error)):
                denied.add(f"scripts ({error})")
        for name, attempt in attempts:
            try:
                await attempt()
            except StoreRefusingError as error:
                if _DENIED.search(str(error)):
                    denied.add(name)
        return sorted(denied)

    # -- settings -------------------------------------------------------------------------------------------

    async def _clock(self, wall_us: Callable[[], int]) -> list[Finding]:
        before = wall_us()
        replies = await self._client.each_primary("TIME")
        after = wall_us()
        findings: list[Finding] = []
        for seconds, micros in replies:
            at_us = int(seconds) * 1_000_000 + int(micros)
            offset_s = (max(before - at_us, 0) or min(after - at_us, 0)) / 1_000_000
            if abs(offset_s) > CLOCK_OFFSET_S:
                ahead = "ahead of" if offset_s > 0 else "behind"
                detail = f"this host's clock is {abs(offset_s):.1f} s {ahead} the server's"
                findings.append(Finding("clock", detail, "synchronize both clocks by NTP"))
        return findings

    # -- shared keys ----------------------------------------------------------------------------------------

    async def _shared_keys(self, *, repair: bool) -> AsyncIterator[Finding]:
        keys, client = self._keys, self._client
        kinds = {**keys.shared(self._host_id), keys.ring: "zset"}
        kinds |= zip(keys.lease(self._host_id), ("string", "hash"), strict=True)
        found = await client.commands(*(("TYPE", key) for key in kinds))
        left = await client.commands(*(("PTTL", key) for key in kinds))
        for (key, kind), raw, ttl_ms in zip(kinds.items(), found, left, strict=True):
            if id_text(raw) not in (kind, "none"):
                yield Finding("wrong_type", f"{id_text(key)} is a {id_text(raw)}, not a {kind}", _TYPE)
            elif ttl_ms == -1 and key != keys.active:  # the Go package gives the active set none
                if repair:
                    await client.command("PEXPIRE", key, self._ttl_ms)
                yield Finding("no_ttl", f"{id_text(key)} never expires", "run with --repair", repaired=repair)

    async def _ghosts(self, *, repair: bool) -> AsyncIterator[Finding]:
        """Ids in the active set that have no document. A session may be written or deleted just now, so they are
        looked at twice."""
        keys, suspects, cursor, first = self._keys, dict[bytes, None](), "", True
        if id_text(await self._client.command("TYPE", keys.active)) != "set":
            return
        while (first or cursor) and len(suspects) < MAX_GHOSTS:
            ids, cursor = await self._client.members(keys.active, cursor, IDS_A_STEP)
            suspects.update(dict.fromkeys(await self._absent(ids)))
            first = False
        again = [*suspects]
        for start in range(0, len(again), IDS_A_STEP):
            ghosts = await self._absent(again[start : start + IDS_A_STEP])
            if repair and ghosts:
                await self._remove(ghosts)
            for raw in ghosts:
                yield Finding(
                    "ghost", "it is in the active set, and has no document",
                    "run with --repair; reading the active set by callstate removes it as well",
                    session_id=id_text(raw), repaired=repair,
                )  # fmt: skip

    async def _absent(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those of these ids without a document."""
        if not ids:
            return []
        if not self._client.clustered:
            absent: list[bytes] = await self._client.run(ABSENT, [self._keys.active], self._keys.prefix, *ids)
            return absent
        exists = await self._client.commands(*(("EXISTS", self._keys.prefix + raw) for raw in ids))
        return [raw for raw, there in zip(ids, exists, strict=True) if not there]

    async def _remove(self, ghosts: Sequence[bytes]) -> None:
        keys = self._keys
        if self._client.clustered:
            await remove_ghosts(self._client, keys, ghosts)
        else:
            await self._client.run(LIVE, [keys.active, keys.beats], keys.prefix, *ghosts)

    # -- sessions -------------------------------------------------------------------------------------------

    async def sessions(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Flaw]]:
        """What these sessions lack beside their documents."""
        if self._client.clustered:
            return await self._sessions_of_cluster(sessions)
        keys, args = [self._keys.active], list[Any]([1])
        for session in sessions:
            keys += self._keys.document(session.session_id)
            args += (id_bytes(session.session_id), int(session.live))
        flat = await self._client.run(EXAMINE, keys, *args)
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return [(sessions[index].session_id, Flaw(id_text(flaw))) for index, flaw in pairs]

    async def _sessions_of_cluster(self, sessions: Sequence[StoredVersion]) -> list[tuple[str, Flaw]]:
        calls = [ScriptCall(EXAMINE, self._keys.document(each.session_id), (0, "", 0)) for each in sessions]
        replies = await self._client.run_each(calls)
        active = self._keys.active
        listed = await self._client.commands(
            *(("SISMEMBER", active, id_bytes(each.session_id)) for each in sessions)
        )
        flaws: list[tuple[str, Flaw]] = []
        for session, reply, is_listed in zip(sessions, replies, listed, strict=True):
            if isinstance(reply, list) and reply:
                flaws.append((session.session_id, Flaw(id_text(reply[1]))))
            elif bool(is_listed) != session.live:
                flaws.append((session.session_id, Flaw.UNLISTED if session.live else Flaw.LISTED))
        return flaws


_ALONE: Final[tuple[tuple[Any, ...], ...]] = (
    ("SSCAN", 0), ("SRANDMEMBER", 1), ("ZRANGE", 0, 0),
)  # fmt: skip
"""Commands on a key that are run outside of scripts, besides those that scripts run as well."""

_WITHOUT_KEY: Final[tuple[tuple[Any, ...], ...]] = (("SCRIPT LOAD", PROBE.text), ("INFO",), ("TIME",))


def _fields(info: bytes) -> dict[str, str]:
    """The fields of a reply of INFO."""
    lines = info.decode("utf-8", "replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _settings(info: Mapping[str, str]) -> list[Finding]:
    """What INFO says of the server's version, persistence and eviction."""
    findings: list[Finding] = []
    version = info.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST_VERSION:
        findings.append(Finding("version", f"the server is version {version}", "update it to 6.2 or newer"))
    if info.get("aof_enabled") == "0":
        findings.append(
            Finding(
                "not_persistent", "appendonly is no: a restart loses calls that are no longer in memory",
                "set appendonly yes",
            )
        )  # fmt: skip
    policy, evicted = info.get("maxmemory_policy", "noeviction"), info.get("evicted_keys", "0")
    if policy != "noeviction":
        detail = f"maxmemory-policy is {policy}; {evicted} keys evicted so far"
        findings.append(Finding("eviction", detail, "set maxmemory-policy noeviction"))
    return findings
