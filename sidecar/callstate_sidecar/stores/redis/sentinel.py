"""The primary that sentinels name, looked up for each new connection and with each ping.

A sentinel that fails over closes the connections to the old primary, where it can reach it. Where it can't, or
where somebody made the primary a replica by hand, we notice it ourselves: by a write that is refused as READONLY,
or by the next ping, which asks the sentinels again. Else reads would be answered from an old state for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, ConnectionError, ReadOnlyError, RedisError  # noqa: A004

from callstate_sidecar.stores.redis.connections import Connector, Node
from callstate_sidecar.stores.redis.errors import UnsuitableServerError
from callstate_sidecar.stores.redis.replies import BrokenError
from callstate_sidecar.stores.redis.servers import Command, OneServer, Words, disconnect
from callstate_sidecar.stores.redis.suitability import no_sentinel


class Sentinels:
    """The sentinels of a URL, and the primary that they named last.

    Args:
        connector: of a `redis+sentinel://` URL.
    """

    def __init__(self, connector: Connector) -> None:
        self._service = connector.url.service
        self._sentinels = connector.sentinels()
        self._primary: Node | None = None
        self._servers: list[OneServer] = []

    def add(self, server: OneServer) -> None:
        """Let a client of the primary give up its connections when another server is named."""
        self._servers.append(server)

    async def find(self) -> Node:
        """Ask them, one after the other, for the primary.

        Raises:
            MasterNotFoundError: none knows one at present.
            AuthenticationError, UnsuitableServerError: the same, and one has refused us, or is no sentinel.
        """
        faults: list[Exception] = []
        for sentinel in [*self._sentinels]:
            try:
                watched = await _watched_by(sentinel)
            except RedisError as error:
                where = sentinel.connection_pool.connection_kwargs
                faults.append(no_sentinel(error, (where["host"], where["port"])))
                continue
            except OSError as error:
                faults.append(error)
                continue
            state = watched.get(self._service.encode())
            if state and _UP.issubset(flags := state[b"flags"].split(b",")) and _DOWN.isdisjoint(flags):
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)  # the first to ask the next time
                return await self._named((state[b"ip"].decode(), int(state[b"port"])))
            faults.append(
                MasterNotFoundError(
                    f"the primary of {self._service} is down" if state else f"no service {self._service} there"
                )
            )
        for fault in faults:
            if isinstance(fault, AuthenticationError | UnsuitableServerError):
                raise fault
        raise MasterNotFoundError(f"no sentinel names a primary: {'; '.join(dict.fromkeys(map(str, faults)))}")

    async def _named(self, primary: Node) -> Node:
        before, self._primary = self._primary, primary
        if before not in (None, primary):
            for server in self._servers:
                await server.disconnect(in_use=True)
        return primary

    async def disconnect(self, *, in_use: bool) -> None:
        """Close the connections to the sentinels."""
        for sentinel in self._sentinels:
            await disconnect(sentinel, in_use=in_use)


_UP: Final = {b"master"}
_DOWN: Final = {b"s_down", b"o_down"}


async def _watched_by(sentinel: Redis) -> Mapping[bytes, Mapping[bytes, bytes]]:
    """The primaries that a sentinel watches, by the names of their services."""
    ask, server = Command(b"", ("SENTINEL", "MASTERS")), OneServer(sentinel)
    try:
        reply = await server.execute(ask)
    except BrokenError:  # only the first sentinel is asked often: it was idle, and has ended unnoticed
        await server.disconnect(in_use=False)
        reply = await server.execute(ask)
    states = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in reply]
    return {state[b"name"]: state for state in states}


class SentinelServer:
    """The primary of a service.

    Args:
        connector: of a `redis+sentinel://` URL.
        sentinels: of this URL.
    """

    clustered = False
    away = ""

    def __init__(self, connector: Connector, sentinels: Sentinels) -> None:
        self._sentinels = sentinels
        self._server = OneServer(connector.primary(sentinels.find))
        sentinels.add(self._server)

    async def verify(self) -> None:
        """See that what the URL names are sentinels."""
        await self._sentinels.find()

    async def execute(self, command: Command, limit_s: float | None = None) -> Any:
        """Run one command."""
        try:
            return await self._server.execute(command, limit_s)
        except RedisError as error:
            if _is_demotion(error):
                await self._leave(error)
            raise

    async def pipeline(self, commands: Sequence[Command], behind: Sequence[Words] = ()) -> list[Any]:
        """Run commands in one round trip."""
        replies = await self._server.pipeline(commands, behind)
        demoted = next((reply for reply in replies if _is_demotion(reply)), None)
        if demoted is not None:
            await self._leave(demoted)
        return replies

    async def each_primary(self, *words: Any) -> list[Any]:
        """Run a command."""
        return await self._server.each_primary(*words)

    async def slot_tags(self) -> list[bytes]:
        """None is needed."""
        return [b""]

    async def scan(self, cursor: str, *args: Any) -> tuple[list[Any], str]:
        """One SCAN step."""
        return await self._server.scan(cursor, *args)

    async def ping(self) -> None:
        """Return once the sentinels have named the primary, and it has answered."""
        await self._sentinels.find()
        await self._server.ping()

    async def _leave(self, error: Exception) -> None:
        await self._server.disconnect(in_use=True)
        raise ConnectionError("the primary has become a replica") from error

    async def disconnect(self, *, in_use: bool) -> None:
        """Close the connections, to the sentinels too."""
        await self._server.disconnect(in_use=in_use)
        await self._sentinels.disconnect(in_use=in_use)


def _is_demotion(reply: Any) -> bool:
    """Whether a server refused a write because it is a replica; before Redis 7, a script's error has no code."""
    return isinstance(reply, ReadOnlyError) or (isinstance(reply, RedisError) and "read only replica" in str(reply))
