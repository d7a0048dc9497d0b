"""Requests that change the owner of a session, through any store, and the interface of what they are tested on.

The implementations of that interface are in targets.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import pytest

from callstate_client import CallStore, FencedError, SessionState
from callstate_client import protocol as p
from callstate_client.protocol import HeartbeatResult, load_reply
from callstate_client.protocol.events import Event

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

decode_claim = p.result_decoder(p.LoadResult[msgspec.Raw])


def a_call(session_id: str = "c1", **fields: Any) -> SessionState:
    """A live call."""
    return SessionState(session_id, **({"provider": "sip", "status": "active", "created_at": START} | fields))


# -- requests -----------------------------------------------------------------------------------------------------


async def claim(store: CallStore, session_id: str, worker_id: str, **more: Any) -> p.LoadResult[msgspec.Raw]:
    """Claim a session."""
    params = p.ClaimParams(session_id=session_id, worker_id=worker_id, **more)
    return decode_claim(await store.request("session.claim", params))


async def claim_next(store: CallStore, worker_id: str, **more: Any) -> str | None:
    """Claim the next session, and return its id."""
    line = await store.request("session.claim_next", p.ClaimNextParams(worker_id=worker_id, **more))
    result = load_reply.decode_claim_next(line)
    return None if result is None else result.session.id


async def release(store: CallStore, session_id: str, epoch: int) -> None:
    """Release a session."""
    params = p.ReleaseParams(session_id=session_id, epoch=epoch)
    p.decode_empty(await store.request("session.release", params))


async def register(store: CallStore, worker_id: str) -> p.RegisterResult:
    """Register the connection."""
    return p.decode_register(await store.request("worker.register", p.RegisterParams(worker_id=worker_id)))


async def drain(store: CallStore, on: bool) -> p.DrainResult:
    """Switch draining on or off."""
    return p.decode_drain(await store.request("server.drain", p.DrainParams(on=on)))


async def send_heartbeats(store: CallStore, *session_ids: str) -> p.HeartbeatResult:
    """Send one heartbeat for several sessions."""
    params = p.HeartbeatParams(session_ids=[*session_ids])
    return p.decode_heartbeat(await store.request("session.heartbeat", params))


async def interrupted(store: CallStore, session_id: str, epoch: int | None = None) -> int:
    """Record an interruption, the smallest mutation."""
    params = p.RecordInterruptionParams(session_id=session_id, epoch=epoch)
    return p.decode_version(await store.request("session.record_interruption", params)).version


async def amended(store: CallStore, session_id: str, patch: dict[str, Any], **which: Any) -> int | None:
    """Amend a turn, and return its index."""
    params = p.AmendTurnParams(session_id=session_id, set=msgspec.Raw(msgspec.json.encode(patch)), **which)
    return p.decode_version(await store.request("session.amend_turn", params)).index


# -- the target --------------------------------------------------------------------------------------------------


class Events(Protocol):
    """A stream of events."""

    async def __anext__(self) -> Event: ...


@dataclass
class Target:
    """What ownership is tested on: one daemon, or MemoryStores with common sessions.

    Args:
        make_worker: a store registered under this id, in the worker's process if it has one, else in a new one;
            None: unregistered.
        kill: kill a worker's process, and return when its calls are suspects.
        watch: the events of these types from now on, or after a cursor.
        pass_time: let at least so many seconds pass, and everything due in them happen.
        now: the target's time.
        timeout_s, grace_s, retention_s, reconnect_grace_s: the target's, so long that no step of a test takes a
            quarter of it.
    """

    make_worker: Callable[[str | None], Awaitable[CallStore]]
    kill: Callable[[CallStore], Awaitable[None]]
    watch: Callable[..., Awaitable[Events]]
    pass_time: Callable[[float], Awaitable[None]]
    now: Callable[[], datetime]
    timeout_s: float
    grace_s: float
    retention_s: float
    reconnect_grace_s: float


# -- results -------------------------------------------------------------------------------------------------------


async def event(events: Events) -> Event:
    async with asyncio.timeout(10):
        return await anext(events)  # type: ignore[call-overload, no-any-return]


async def held(store: CallStore, session_id: str = "c1") -> tuple[str | None, int]:
    record = await store.get(session_id)
    return record.owner, record.epoch


async def fenced(request: Awaitable[object]) -> tuple[int | None, str | None]:
    with pytest.raises(FencedError) as caught:
        await request
    return caught.value.epoch, caught.value.owner


def heartbeat_result(**lists: list[str]) -> HeartbeatResult:
    return HeartbeatResult(**({"missing": [], "ended": [], "fenced": []} | lists))
