"""Requests about the daemon itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from callstate_client import protocol
from callstate_client.requests import replies, validation
from callstate_client.requests.prepared import Page, PreparedRequest

FLUSH_S: Final = 10.0
"""How long the daemon tries to flush, seconds; it writes to its store five times a second while that is up."""

FLUSH_MARGIN_S: Final = 5.0
"""How much longer than that the client waits, seconds: the daemon gives up first, and its reply says what it
flushed."""

CHECK_S: Final = 120.0
"""How long the client waits for the store to be compared with memory, seconds. 100,000 sessions take about ten."""

ERASE_S: Final = 300.0
"""How long the client waits for a session to be erased, seconds. An SQLite file is written anew, 100 MB a second or
so."""

PING: Final = PreparedRequest("server.ping", None, replies.nothing)
INFO: Final = PreparedRequest("server.info", None, protocol.decode_members)
CONFIG: Final = PreparedRequest("server.config", None, protocol.decode_config)
STATS: Final = PreparedRequest("server.stats", None, protocol.decode_members)


def workers(cursor: str | None = None) -> PreparedRequest[Page[protocol.WorkerInfo]]:
    """The workers that the daemon knows, by pages."""

    def result(line: bytes) -> Page[protocol.WorkerInfo]:
        page = protocol.decode_worker_list(line)
        return Page(page.workers, workers(page.next_cursor) if page.next_cursor else None)

    return PreparedRequest("worker.list", protocol.WorkerListParams(cursor=cursor), result)


def flush(session_ids: Sequence[str] | None, timeout_s: float) -> PreparedRequest[protocol.FlushResult]:
    """Wait for the store. The daemon tries for `timeout_s`, so the reply may take FLUSH_MARGIN_S more."""
    ids = None if session_ids is None else list(session_ids)
    return PreparedRequest(
        "server.flush", protocol.FlushParams(session_ids=ids, timeout_s=timeout_s), protocol.decode_flush
    )


def erase(session_id: str, end: bool, timeout_s: float) -> PreparedRequest[list[str]]:
    """Delete a session, and what files have of it. The daemon tries for `timeout_s`."""
    validation.check_session_id(session_id)
    params = protocol.EraseParams(session_id=session_id, end=end, timeout_s=timeout_s)
    return PreparedRequest("server.erase", params, lambda line: protocol.decode_erase(line).remains)


def check(repair: bool) -> PreparedRequest[protocol.CheckResult]:
    """Compare the daemon's memory with its store."""
    return PreparedRequest("server.check", protocol.CheckParams(repair=repair), protocol.decode_check)


def drain(on: bool) -> PreparedRequest[protocol.DrainResult]:
    """Refuse new sessions, or accept them again."""
    return PreparedRequest("server.drain", protocol.DrainParams(on=on), protocol.decode_drain)
