"""Requests about what the store refuses."""

from __future__ import annotations

from collections.abc import Sequence

from callstate_client import protocol
from callstate_client.requests import replies
from callstate_client.requests.prepared import Page, PreparedRequest


def quarantined(cursor: str | None = None) -> PreparedRequest[Page[protocol.Quarantined]]:
    """What the store refuses, by pages."""

    def result(line: bytes) -> Page[protocol.Quarantined]:
        page = protocol.decode_quarantine_list(line)
        return Page(page.quarantined, quarantined(page.next_cursor) if page.next_cursor else None)

    return PreparedRequest("quarantine.list", protocol.QuarantineListParams(cursor=cursor), result)


def show_quarantined(session_id: str) -> PreparedRequest[protocol.QuarantineShowResult]:
    """One session in quarantine, with what the store has in its place."""
    params = protocol.QuarantineShowParams(session_id=session_id)
    return PreparedRequest("quarantine.show", params, protocol.decode_quarantine_show)


def retry_quarantined(session_ids: Sequence[str] | None) -> PreparedRequest[int]:
    """Try these again now, or all."""

    def result(line: bytes) -> int:
        return protocol.decode_quarantine_retry(line).retried

    ids = None if session_ids is None else list(session_ids)
    return PreparedRequest("quarantine.retry", protocol.QuarantineRetryParams(session_ids=ids), result)


def drop_quarantined(session_id: str) -> PreparedRequest[None]:
    """Give one of them up."""
    params = protocol.QuarantineDropParams(session_id=session_id)
    return PreparedRequest("quarantine.drop", params, replies.nothing)
