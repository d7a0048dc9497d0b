"""Decoders of reply lines. Each raises the error that the reply carries, if it does."""

from __future__ import annotations

import msgspec

from callstate_client import protocol
from callstate_client.model.state import SessionState
from callstate_client.protocol import load_reply
from callstate_client.protocol.results import LoadResult
from callstate_client.store import Record


def nothing(line: bytes) -> None:
    protocol.decode_empty(line)


def version(line: bytes) -> int:
    return protocol.decode_version(line).version


def state(line: bytes) -> SessionState:
    return load_reply.decode_load(line).session


def record(line: bytes) -> Record:
    return _to_record(load_reply.decode_load(line))


def any_record(line: bytes) -> Record | None:
    result = load_reply.decode_claim_next(line)
    return None if result is None else _to_record(result)


def listed(result: LoadResult[msgspec.Raw]) -> Record:
    return _to_record(load_reply.load_result(result))


def _to_record(result: LoadResult[SessionState]) -> Record:
    return Record(
        state=result.session,
        version=result.version,
        epoch=result.epoch,
        owner=result.owner,
        ended_reason=result.ended_reason or None,
        labels=result.labels,
        history_from=result.session.history_from,
        heartbeat_timeout_s=result.heartbeat_timeout_s,
        max_duration_s=result.max_duration_s,
        handovers=result.handovers,
        restored=result.restored,
        liveness=result.state,
        uid=result.uid,
        gid=result.gid,
        ended_detail=result.ended_detail,
        turn_count=result.turn_count,
    )
