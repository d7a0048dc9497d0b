"""The verbs that read, and the heartbeat, over a shelf of sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from msgspec import Raw

from callstate_client import protocol as p
from callstate_client.engine_access import Access
from callstate_client.engine_kept import Kept
from callstate_client.errors import FencedError, SessionEndedError
from callstate_client.model.state import encode_members
from callstate_client.model.times import format_time, parse_time
from callstate_client.protocol.validation import wrong

PAGE: Final = 1000
"""Sessions a page where the request does not say."""


class Reads(Access):
    """Answers what changes nothing but a last sign of life."""

    def _check_history(self, history: str | int) -> None:
        if isinstance(history, str) and history not in ("all", "none"):
            raise wrong("$.params.history", "'all', 'none' or a number")

    def _load(self, params: p.LoadParams) -> bytes:
        self._check_history(params.history)
        return self._loaded(self._shelf.find(params.session_id), params.history)

    def _loaded(
        self,
        kept: Kept,
        history: str | int,
        *,
        for_worker: bool = False,
        default_timeout_s: float | None = None,
    ) -> bytes:
        state = kept.state
        members = state.to_members(with_history=False)
        if not kept.ended:
            members["updated_at"] = format_time(max(state.updated_at, kept.beat_at))
        first = 0
        if history != "none":
            parts = state.history.parts()
            if isinstance(history, int):
                first = max(0, len(parts) - history)
            members["history"] = parts[first:]
        result = {
            "session": members,
            "history_from": first,
            "turn_count": len(state.history),
            "version": kept.version,
            "epoch": kept.epoch,
            "labels": kept.labels,
        }
        if for_worker and kept.heartbeat_timeout_s != default_timeout_s:
            result["heartbeat_timeout_s"] = kept.heartbeat_timeout_s
        if for_worker and kept.max_duration_s is not None:
            result["max_duration_s"] = kept.max_duration_s
        if kept.owner:
            result["owner"] = kept.owner
        if kept.handovers:
            result["handovers"] = kept.handovers
        if kept.ended:
            result["ended_reason"] = kept.ended_reason
            if kept.ended_detail is not None:
                result["ended_detail"] = Raw(kept.ended_detail)
        return encode_members(result)

    def _page(self, name: str, kept: list[Kept], values: list[Any], limit: int) -> bytes:
        result: dict[str, Any] = {name: values}
        if len(kept) > limit:
            result["next_cursor"] = str(kept[limit - 1].seq)
        return encode_members(result)

    def _behind(self, cursor: str | None) -> Iterator[Kept]:
        if cursor is not None and not cursor.isdigit():
            raise wrong("$.params.cursor", "a next_cursor")
        return self._shelf.behind(int(cursor or 0))

    def _list_active(self, params: p.ListActiveParams) -> bytes:
        limit = params.limit or PAGE
        _check_scope(params.scope)
        page = list(islice((kept for kept in self._behind(params.cursor) if not kept.ended), limit + 1))
        return self._page("session_ids", page, [kept.state.id for kept in page[:limit]], limit)

    def _list(self, params: p.ListParams) -> bytes:
        limit = params.limit or PAGE
        since = None if params.ended_since is None else parse_time(params.ended_since)
        labels = (params.labels or {}).items()
        _check_scope(params.scope)
        if params.state is not None and params.state not in p.SESSION_STATES:
            raise wrong("$.params.state", f"one of {', '.join(p.SESSION_STATES)}")

        def wanted(kept: Kept) -> bool:
            state = kept.state
            return (
                (params.state is None or kept.is_in(params.state))
                and params.status in (None, state.status)
                and params.provider in (None, state.provider)
                and params.call_id in (None, state.call_id)
                and params.owner in (None, kept.owner)
                and (since is None or (kept.ended_at is not None and kept.ended_at >= since))
                and labels <= kept.labels.items()
            )

        page = list(islice((kept for kept in self._behind(params.cursor) if wanted(kept)), limit + 1))
        default_s = self._shelf.spans.heartbeat_timeout_s
        shown = [
            Raw(self._loaded(kept, "none", for_worker=True, default_timeout_s=default_s)) for kept in page[:limit]
        ]
        return self._page("sessions", page, shown, limit)

    def _heartbeat(self, params: p.HeartbeatParams) -> bytes:
        if (params.session_id is None) == (params.session_ids is None):
            raise wrong("$.params", "one of session_id and session_ids")
        if params.session_id is not None:
            timeout_s = self._beat(self._shelf.find(params.session_id))
            return b"{}" if timeout_s is None else p.encode_json({"timeouts": {params.session_id: timeout_s}})
        result = p.HeartbeatResult(missing=[], ended=[], fenced=[])
        timeouts: dict[str, float] = {}
        for session_id in params.session_ids or []:
            kept = self._shelf.get(session_id)
            if kept is None:
                result.missing.append(session_id)
                continue
            try:
                timeout_s = self._beat(kept)
                if timeout_s is not None:
                    timeouts[session_id] = timeout_s
            except FencedError:
                result.fenced.append(session_id)
            except SessionEndedError:
                result.ended.append(session_id)
        lists = {"missing": result.missing, "ended": result.ended, "fenced": result.fenced}
        return p.encode_json(
            lists | {"timeouts": timeouts} if timeouts else lists
        )  # nothing in memory is unreadable

    def _beat(self, kept: Kept) -> float | None:
        """Gives the timeout in force, seconds, where the owner has not been told it yet."""
        self._check_held(kept, None)
        if kept.ended:
            raise kept.ended_error()
        if not self._speaks_for(kept):
            return None
        is_news, kept.known_timeout_s = kept.known_timeout_s is not None, None
        self._shelf.beat(kept)
        return kept.heartbeat_timeout_s if is_news else None

    def _info(self, _: p.NoParams) -> bytes:
        return p.encode_json(
            {
                "name": "memory",
                "protocol": p.PROTOCOL_VERSION,
                "features": p.FEATURES,
                "store": "memory",
                "durability": "none",
                "liveness": "process",
                "heartbeat_timeout_s": self._shelf.spans.heartbeat_timeout_s,
            }
        )

    def _stats(self, _: p.NoParams) -> bytes:
        kept = self._shelf.all()
        by_status = Counter(each.state.status for each in kept)
        return p.encode_json(
            {
                "sessions": dict(by_status),
                "suspects": sum(bool(each.suspicion) for each in kept),
                "orphans": sum(bool(each.orphan) and not each.ended for each in kept),
                "workers": len(self._shelf.workers),
                "workers_unwatched": 0,
                "draining": self._shelf.draining,
                "connections": 0,
                "dirty": 0,
            }
        )

    def _flush(self, params: p.FlushParams) -> bytes:
        count = len(self._shelf.all() if params.session_ids is None else params.session_ids)
        return p.encode_json(p.FlushResult(flushed=count, unflushed=0))


def _check_scope(scope: str) -> None:
    if scope not in ("host", "all"):
        raise wrong("$.params.scope", "'host' or 'all'")
