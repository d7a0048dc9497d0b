"""RedisStore: the Go package's store in Python, for use without a daemon."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Self

from redis.asyncio import Redis

from callstate_client.model.state import Status
from callstate_sidecar.stores.document_store import DEFAULT_TTL_S, Beat, BeatResult, DocumentStore, read_document
from callstate_sidecar.stores.encoding import ttl_ms
from callstate_sidecar.stores.redis.client import ScriptClient, connect
from callstate_sidecar.stores.redis.layout import DEFAULT_PREFIX, Layout, beat_ms, id_bytes, id_text
from callstate_sidecar.stores.redis.scripts import READ
from callstate_sidecar.stores.redis.servers import OneServer
from callstate_sidecar.stores.redis.store_scripts import BEAT, DELETE, LIVE, SAVE

IDS_A_PAGE: Final = 500
"""Ids scanned in one step; Redis serves other clients in between."""

DEFAULT_TIMEOUT_S: Final = 5.0

DEFAULT_CONNECTIONS: Final = 32


class RedisStore(DocumentStore):
    """Sessions in one Redis, in the layout of the Go package `storage`, which may use it at the same time.

    Unlike there, a heartbeat does not rewrite the document, and `list_active` leaves out sessions whose keys have
    expired. Make one with `from_url` or `from_client`; it connects on first use.
    """

    def __init__(self, client: ScriptClient, *, prefix: str, ttl: float | timedelta) -> None:
        super().__init__()
        self._client = client
        self._keys = Layout(prefix)
        self._ttl_ms = ttl_ms(ttl)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        ttl: float | timedelta = DEFAULT_TTL_S,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Self:
        """Make a store with connections of its own.

        Args:
            url: `redis://`, `rediss://`, `unix:///path` or `host:port`.
            prefix: prefix of every key; no braces.
            ttl: how long a session stays after its last save or heartbeat, seconds or a timedelta.
            timeout_s: timeout of every operation, seconds.

        Raises:
            ValueError: an argument is not as described.
        """
        if url.startswith("redis+cluster:"):
            raise ValueError("RedisStore is for a single server; a daemon serves sessions in a cluster")
        client = connect(url, connections=DEFAULT_CONNECTIONS, timeout_s=timeout_s)
        return cls(ScriptClient(client, owned=True, limit_s=timeout_s), prefix=prefix, ttl=ttl)

    @classmethod
    def from_client(
        cls, client: Redis, *, prefix: str = DEFAULT_PREFIX, ttl: float | timedelta = DEFAULT_TTL_S
    ) -> Self:
        """Make a store over the caller's client, with its timeouts and retries; the caller closes it.

        Args:
            client: a `redis.asyncio.Redis`, decoding replies or not.
            prefix, ttl: as for `from_url`.
        """
        return cls(ScriptClient(OneServer(client), owned=False), prefix=prefix, ttl=ttl)

    @property
    def name(self) -> str:
        """`redis`."""
        return "redis"

    async def _put(self, session_id: str, document: bytes, *, active: bool, call_id: str = "") -> None:
        keys = [*self._keys.session(session_id), self._keys.call(call_id)]
        args = (id_bytes(session_id), document, self._ttl_ms, int(active), int(bool(call_id)))
        await self._client.run(SAVE, keys, *args)

    async def _get(self, session_id: str) -> tuple[bytes, int] | None:
        reply = await self._client.run(READ, self._keys.session(session_id), id_bytes(session_id))
        document: bytes | str | None = reply[0]
        if document is None:
            return None
        return document.encode() if isinstance(document, str) else document, beat_ms(reply[2])

    async def _remove(self, session_id: str) -> bool:
        keys = self._keys.session(session_id)
        found: int = await self._client.run(DELETE, keys, id_bytes(session_id), self._keys.prefix)
        return found > 0

    async def _active(self) -> list[str]:
        seen: dict[str, None] = {}
        cursor = ""
        while True:
            ids, cursor = await live_page(self._client, self._keys, cursor)
            seen.update(dict.fromkeys(ids))
            if not cursor:
                return [*seen]

    async def _beat(self, session_id: str, at_ms: int) -> Beat:
        keys, args = self._keys.session(session_id), (id_bytes(session_id), at_ms, self._ttl_ms)
        document = b""
        while True:
            result, *detail = await self._client.run(BEAT, keys, *args, document)
            if id_text(result) != "unlisted":
                return Beat(BeatResult(id_text(result)))
            document, *ended = detail
            text = document.encode() if isinstance(document, str) else document
            if read_document(text, session_id).head.status == Status.ENDED:
                return Beat(BeatResult.ENDED, *map(id_text, ended))

    async def _ping(self) -> None:
        await self._client.ping()

    async def _release(self) -> None:
        await self._client.close()


async def live_page(client: ScriptClient, keys: Layout, cursor: str) -> tuple[list[str], str]:
    """A page of the active ids whose documents exist, and the next cursor, empty at the end.

    Ids without a document are removed from the set on the way. An id may be returned twice.
    """
    ids, after = await client.members(keys.active, cursor, IDS_A_PAGE)
    live = await client.run(LIVE, [keys.active, keys.beats], keys.prefix, *ids) if ids else []
    return [id_text(session_id) for session_id in live], after
