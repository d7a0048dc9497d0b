"""Requests that read sessions: one, or those that match, by pages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

import msgspec

from callstate_client import protocol
from callstate_client.errors import MethodNotFoundError
from callstate_client.model.state import SessionState
from callstate_client.model.times import format_time
from callstate_client.protocol import load_reply
from callstate_client.requests import replies, validation
from callstate_client.requests.prepared import Page, PreparedRequest
from callstate_client.store import Record


def load(session_id: str, history: str | int) -> PreparedRequest[SessionState]:
    """One session's state, with all its turns, none, or the last ones."""
    return PreparedRequest("session.load", _load_params(session_id, history), replies.state)


def get(session_id: str, history: str | int) -> PreparedRequest[Record]:
    """One session's state, with what is known besides the document."""
    return PreparedRequest("session.load", _load_params(session_id, history), replies.record)


def _load_params(session_id: str, history: str | int) -> protocol.Params:
    validation.check_session_id(session_id)
    if history == "all":
        return protocol.Written((b'{"session_id":%b}' % protocol.encode_json(session_id),))
    return protocol.LoadParams(session_id=session_id, history=history)


def list_active(scope: str, cursor: str | None = None) -> PreparedRequest[Page[str]]:
    """The ids of all sessions that have not ended, by pages; `scope`: `"host"`, or `"all"` for every host."""

    def result(line: bytes) -> Page[str]:
        page = protocol.decode_list_active(line)
        return Page(page.session_ids, list_active(scope, page.next_cursor) if page.next_cursor else None)

    return PreparedRequest("session.list_active", protocol.ListActiveParams(cursor=cursor, scope=scope), result)


def sessions(
    *,
    status: str | None,
    state: str | None,
    provider: str | None,
    owner: str | None,
    call_id: str | None,
    ended_since: datetime | None,
    labels: Mapping[str, str] | None,
    scope: str,
    users: bool = False,
) -> PreparedRequest[Page[Record]]:
    """The sessions that match, without their histories, by pages; `scope`: `"host"` for those in the daemon's
    memory, `"all"` for those that the store has of every host as well."""
    return _listing(
        protocol.ListParams(
            status=status,
            state=state,
            provider=provider,
            owner=owner,
            call_id=call_id,
            labels=None if labels is None else dict(labels),
            ended_since=None if ended_since is None else format_time(ended_since),
            scope=scope,
            users=users,
        )
    )


def listing_features(state: str | None, scope: str, users: bool = False) -> frozenset[str]:
    """The features that a daemon needs to list by this state and scope, with users."""
    needed = {protocol.LIST_STATE} if state is not None else set()
    if users:
        needed.add(protocol.LIST_USERS)
    return frozenset(needed if scope == "host" else needed | {protocol.LIST_SCOPE})


def check_listable(features: Collection[str], needed: frozenset[str]) -> None:
    """Check that a daemon with these features can list what is wanted.

    Raises:
        MethodNotFoundError: it can't.
    """
    if not needed <= frozenset(features):
        raise MethodNotFoundError(
            "this daemon, of an earlier version, lists no sessions by state, of every host, or with users"
        )


def _listing(params: protocol.ListParams) -> PreparedRequest[Page[Record]]:
    def result(line: bytes) -> Page[Record]:
        page = load_reply.decode_list(line)
        next_page = None
        if page.next_cursor:
            next_page = _listing(msgspec.structs.replace(params, cursor=page.next_cursor))
        return Page(map(replies.listed, page.sessions), next_page)

    return PreparedRequest("session.list", params, result)
