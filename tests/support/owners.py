"""What changes the owner of a session, asked of any store in the words of the protocol; and where to ask it.

The places themselves are in targets.py.
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


# -- asking -------------------------------------------------------------------------------------------------------


async def claim(store: CallStore, session_id: str, worker_id: str, **more: Any) -> p.LoadResult[msgspec.Raw]:
    """Take a session over."""
    params = p.ClaimParams(session_id=session_id, worker_id=worker_id, **more)
    return decode_claim(await store.request("session.claim", params))


async def claim_next(store: CallStore, worker_id: str, **more: Any) -> str | None:
    """Take the next orphan over; gives its id."""
    line = await store.request("session.claim_next", p.ClaimNextParams(worker_id=worker_id, **more))
    result = load_reply.decode_claim_next(line)
    return None if result is None else result.session.id


async def release(store: CallStore, session_id: str, epoch: int) -> None:
    """Give a session up."""
    params = p.ReleaseParams(session_id=session_id, epoch=epoch)
    p.decode_empty(await store.request("session.release", params))


async def register(store: CallStore, worker_id: str) -> p.RegisterResult:
    """Say whose this connection is."""
    return p.decode_register(await store.request("worker.register", p.RegisterParams(worker_id=worker_id)))


async def drain(store: CallStore, on: bool) -> p.DrainResult:
    """Take no new sessions, or take them again."""
    return p.decode_drain(await store.request("server.drain", p.DrainParams(on=on)))


async def beats(store: CallStore, *session_ids: str) -> p.HeartbeatResult:
    """Beat for several."""
    params = p.HeartbeatParams(session_ids=[*session_ids])
    return p.decode_heartbeat(await store.request("session.heartbeat", params))


async def interrupted(store: CallStore, session_id: str, epoch: int | None = None) -> int:
    """The smallest mutation, with an epoch where one is given."""
    params = p.RecordInterruptionParams(session_id=session_id, epoch=epoch)
    return p.decode_version(await store.request("session.record_interruption", params)).version


async def amended(store: CallStore, session_id: str, patch: dict[str, Any], **which: Any) -> int | None:
    """Change a turn; gives which one that was."""
    params = p.AmendTurnParams(session_id=session_id, set=msgspec.Raw(msgspec.json.encode(patch)), **which)
    return p.decode_version(await store.request("session.amend_turn", params)).index


# -- where --------------------------------------------------------------------------------------------------------


class Events(Protocol):
    """Events as they come."""

    async def __anext__(self) -> Event: ...


@dataclass
class Target:
    """Where workers of one backend meet.

    Args:
        make_worker: a store registered under this id: in the process of that worker where it lives, else in one of
            its own; None: one that is no worker's.
        kill: let a worker's process die at once, and return when that is known and its calls are suspects.
        watch: the events of these types from now on, or behind a cursor.
        pass_time: let at least so many seconds pass for the backend, and what is due in them happen.
        now: the backend's time.
        timeout_s, grace_s, retention_s, reconnect_grace_s: the backend's, each long enough that a quarter of it
            is longer than anything takes that a test does.
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


def beaten(**lists: list[str]) -> HeartbeatResult:
    return HeartbeatResult(**({"missing": [], "ended": [], "fenced": []} | lists))
