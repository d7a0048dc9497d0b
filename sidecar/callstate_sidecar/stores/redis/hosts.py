"""RedisHosts: what several hosts that share one Redis need of it; see stores/hosts.py.

The keys of one session, and those of one lease, are in one slot of a cluster; all others are used by commands of
their own, in an order in which a crash between two of them leaves a hint too many and none too few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from callstate_client.engine.reasons import HOST_LOST
from callstate_client.engine.sessions.stored import UNREADABLE, StoredSession, StoreRefusingError
from callstate_client.engine.sessions.stored_meta import UnreadableMetaError
from callstate_sidecar.stores.hosts import LeaseReply, Possession, Surroundings, Take, Taken, TakeOutcome, next_term
from callstate_sidecar.stores.redis.client import ScriptCall, ScriptClient
from callstate_sidecar.stores.redis.errors import NodeAwayError, describe, translate
from callstate_sidecar.stores.redis.layout import Layout, beat_ms, id_bytes, id_text, parse_meta
from callstate_sidecar.stores.redis.lease_scripts import BEGIN_DUTY, NOTE_DEAD, POSSESSION, RAISE, TAKE

_PAGE: Final = 500
"""Ids in one step over a set."""

_POSSESSIONS_AT_ONCE: Final = 100
"""Asked for without giving way to the loop: packing and parsing them takes a millisecond or two."""


class RedisHosts:
    """The hosts under one prefix.

    Args:
        client: runs scripts and commands.
        keys: the layout.
        host_id: this host.
        ttl_ms: how long the keys stay after their last use, milliseconds.
    """

    def __init__(self, client: ScriptClient, keys: Layout, host_id: str, ttl_ms: int) -> None:
        self._client = client
        self._keys = keys
        self._host_id = host_id
        self._ttl_ms = ttl_ms

    # -- leases ---------------------------------------------------------------------------------------------

    async def raise_lease(self, instance: str, instead_of: LeaseReply | None = None) -> LeaseReply:
        """Raise this host's lease, unless another daemon holds it."""
        seize, seen = ("", "") if instead_of is None else (instead_of.instance, str(instead_of.counter))
        call = ScriptCall(RAISE, self._keys.lease(self._host_id), (instance, self._ttl_ms, seize, seen))
        ring, own = self._keys.ring, self._host_id
        await self._client.commands(
            ("ZADD", ring, 0, own), ("PEXPIRE", ring, self._ttl_ms), ("ZREM", self._keys.dead, own)
        )  # fmt: skip
        (reply,) = await self._each([call])
        holder, counter, age_ms = reply
        return LeaseReply(id_text(holder), int(counter), int(age_ms) if age_ms else None)

    async def lease_holder(self) -> str:
        """The daemon that has this host's lease; empty for none."""
        return id_text(await self._client.command("HGET", self._keys.lease(self._host_id)[1], "instance") or b"")

    async def look_around(self, ahead: int) -> Surroundings:
        """The lease counters of the next hosts on the ring, and the hosts that were found dead."""
        ring, own = self._keys.ring, self._host_id
        after, first, dead = await self._client.commands(
            ("ZRANGE", ring, f"({own}", "+", "BYLEX", "LIMIT", 0, ahead),
            ("ZRANGE", ring, "-", f"({own}", "BYLEX", "LIMIT", 0, ahead),
            ("ZRANGE", self._keys.dead, 0, -1),
        )
        hosts = [id_text(raw) for raw in (*after, *first)][:ahead]
        counts = await self._client.commands(*(("GET", self._keys.lease(host)[0]) for host in hosts))
        found = zip(hosts, counts, strict=True)
        counters = {host: int(raw) if raw and raw.isdigit() else 0 for host, raw in found}
        return Surroundings(counters, frozenset(map(id_text, dead)))

    async def note_dead(self, host: str, for_s: float) -> None:
        """A host was found dead; it withdraws this itself when it raises its lease again."""
        await self._client.run(NOTE_DEAD, [self._keys.dead], host, round(for_s * 1000))

    async def add_hosts(self, hosts: Sequence[str]) -> None:
        """Hosts that were seen in the meta of sessions have to be watched too."""
        members = [word for host in hosts for word in (0, host)]
        await self._client.command("ZADD", self._keys.ring, *members)

    async def forget_host(self, host: str) -> None:
        """A dead host has no sessions any more."""
        await self._client.command("ZREM", self._keys.ring, host)

    # -- sessions -------------------------------------------------------------------------------------------

    async def sessions_of(self, host: str, cursor: str) -> tuple[list[str], str]:
        """A page of the set of a host's sessions, and the next cursor, empty after the last."""
        key = self._keys.host_sessions(host)
        after, found = await self._client.command("SSCAN", key, cursor or 0, "COUNT", _PAGE)
        return [id_text(raw) for raw in found], "" if int(after) == 0 else str(int(after))

    async def possessions(self, session_ids: Sequence[str]) -> list[Possession | None]:
        """Whose these sessions are, in order; None where no host's."""
        found: list[Possession | None] = []
        for start in range(0, len(session_ids), _POSSESSIONS_AT_ONCE):
            some = session_ids[start : start + _POSSESSIONS_AT_ONCE]
            calls = [ScriptCall(POSSESSION, [self._meta_key(session_id)], ()) for session_id in some]
            found += map(_possession, await self._each(calls))
        return found

    async def remove_from_set(self, host: str, session_ids: Sequence[str]) -> None:
        """These are not in the host's set any more, as meta says that they are not its own."""
        if session_ids:
            await self._client.command("SREM", self._keys.host_sessions(host), *map(id_bytes, session_ids))

    async def take(self, takes: Sequence[Take]) -> list[Taken]:
        """Take these sessions over, each by itself; the results in order."""
        keys, own = self._keys, self._keys.host_sessions(self._host_id)
        ids = [id_bytes(take.session_id) for take in takes]
        await self._client.commands(("SADD", own, *ids), ("PEXPIRE", own, self._ttl_ms))
        beats = await self._client.commands(*(("ZSCORE", keys.beats, raw) for raw in ids))
        replies = await self._each([self._take(take) for take in takes])
        results = [self._taken(take, *each) for take, *each in zip(takes, replies, beats, strict=True)]
        after: list[tuple[Any, ...]] = []
        for take, raw, result in zip(takes, ids, results, strict=True):
            if result.outcome is TakeOutcome.TAKEN:
                away = keys.taken_away(take.host)
                after += (
                    ("SADD", away, raw), ("PEXPIRE", away, self._ttl_ms),
                    ("SREM", keys.host_sessions(take.host), raw),
                )  # fmt: skip
        if after:
            await self._client.commands(*after)
        return results

    def _take(self, take: Take) -> ScriptCall:
        args = (
            id_bytes(take.session_id), self._host_id, take.host, take.epoch, next_term(take.epoch), take.owner,
            int(take.force), self._ttl_ms, HOST_LOST, int(take.revive),
        )  # fmt: skip
        return ScriptCall(TAKE, self._keys.session(take.session_id)[:2], args)

    def _taken(self, take: Take, reply: Any, beat: Any) -> Taken:
        code, *found = reply
        if code != 1:
            return Taken(TakeOutcome.CHANGED if code else TakeOutcome.HELD)
        document, fields = found
        try:
            meta = parse_meta(dict(zip(fields[::2], fields[1::2], strict=True)))
        except UnreadableMetaError:
            return Taken(TakeOutcome.TAKEN, UNREADABLE)
        if meta is not None:
            meta.host, meta.epoch = self._host_id, next_term(take.epoch)
        return Taken(TakeOutcome.TAKEN, StoredSession(document, meta, beat_ms(beat)))

    async def taken_away(self) -> list[str]:
        """Some of the sessions that other hosts have taken from this one; a hint, meta is decisive."""
        found = await self._client.command("SRANDMEMBER", self._keys.taken_away(self._host_id), _PAGE)
        return [id_text(raw) for raw in found]

    async def note_lost(self, session_ids: Sequence[str]) -> None:
        """This host knows that these were taken away."""
        if session_ids:
            await self._client.command("SREM", self._keys.taken_away(self._host_id), *map(id_bytes, session_ids))

    async def begin_duty(self, name: str, instance: str, hold_s: float) -> bool:
        """Whether this daemon is the one to do something that one host does for all, for so many seconds."""
        reply = await self._client.run(BEGIN_DUTY, [self._keys.duty(name)], instance, round(hold_s * 1000))
        return bool(reply)

    # -- requests -------------------------------------------------------------------------------------------

    def _meta_key(self, session_id: str) -> bytes:
        return self._keys.session(session_id)[1]

    async def _each(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts in one round trip; an error among the replies is raised."""
        replies = await self._client.run_each(calls)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise StoreRefusingError(describe(reply))
            if isinstance(reply, NodeAwayError):
                raise translate(reply)
        return replies


def _possession(reply: Any) -> Possession | None:
    host, epoch, state, deleted, version = (b"" if field is None else field for field in reply)
    if not version or deleted == b"1":
        return None
    return Possession(id_text(host), int(epoch) if epoch.isdigit() else 0, id_text(state))
