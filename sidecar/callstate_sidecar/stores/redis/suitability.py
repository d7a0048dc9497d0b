"""Whether servers are what a URL says and can do what is asked of them, found out before they are first used.

A sentinel or a node of a cluster answers a client that takes it for a server of its own, and refuses command by
command: nothing in those errors says that the URL is the mistake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from callstate_sidecar.config.redis_url import RedisUrl
from callstate_sidecar.stores.redis.connections import Connector
from callstate_sidecar.stores.redis.errors import UnsuitableServerError


async def verify_standalone(connector: Connector) -> None:
    """See that the server of a URL is neither a sentinel nor a node of a cluster.

    Raises:
        UnsuitableServerError: it is; says which URL to use.
    """
    # neither of them has other databases: a connection that selects one would fail before it can ask
    client = connector.server(db=0)
    try:
        mode = await _mode(client)
        service = await _service(client) if mode == "sentinel" else ""
    finally:
        await client.connection_pool.disconnect()
    if mode in ("sentinel", "cluster"):
        url = connector.url
        scheme = "unix" if url.path else "rediss" if url.tls else "redis"
        kind = "a Redis Sentinel" if mode == "sentinel" else "a node of a Redis Cluster"
        right = f"redis+{mode}://{_address(url)}{service}{'?ssl=true' if url.tls else ''}"
        raise UnsuitableServerError(f"{scheme}:// names {kind}: use {right}")


async def _mode(client: Redis) -> str:
    """`standalone`, `cluster`, `sentinel`, or empty where we may not ask."""
    ask: Any = client.execute_command  # untyped in some versions of redis-py
    try:
        info = await ask("INFO", "server")
    except NoPermissionError:
        return ""
    return str(info.get("redis_mode") or info.get("server_mode") or "")  # Redis', Valkey's


async def _service(client: Redis) -> str:
    """The path for the only service that a sentinel watches, or a placeholder."""
    try:
        services = await client.sentinel_masters()
    except RedisError:
        services = {}
    return f"/{next(iter(services))}" if len(services) == 1 else "/SERVICE"


def _address(url: RedisUrl) -> str:
    if url.path:
        return "HOST:PORT"
    host, port = url.nodes[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def no_sentinel(error: RedisError, node: tuple[str, int]) -> Exception:
    """What the error of SENTINEL MASTERS means."""
    if "unknown command" in str(error).lower():
        return UnsuitableServerError(
            f"redis+sentinel:// names {node[0]}:{node[1]}, which is no sentinel but a server"
        )
    return error


def no_cluster(error: ResponseError, url: RedisUrl, node: tuple[str, int]) -> Exception:
    """What the error of CLUSTER SLOTS means."""
    host, port = node
    if "cluster support disabled" in str(error):
        scheme = "rediss" if url.tls else "redis"
        return UnsuitableServerError(
            f"redis+cluster:// names {host}:{port}, which is no node of a cluster: use {scheme}://{host}:{port}"
        )
    if "unknown command" in str(error).lower():
        return UnsuitableServerError(f"redis+cluster:// names {host}:{port}, which is a Redis Sentinel")
    return error


async def verify_append_only(each_primary: Callable[..., Awaitable[list[Any]]]) -> None:
    """See that every primary can say what is in its append-only file.

    Raises:
        UnsuitableServerError: one can't; says why.
    """
    try:
        await each_primary("WAITAOF", 1, 0, 1)  # waits for a millisecond at most
    except ResponseError as error:
        text = str(error)
        if "unknown command" in text.lower():
            why = "the server has no WAITAOF; it takes Redis 7.2 or newer, or Valkey"
        elif "appendonly is disabled" in text:
            why = "the server has no append-only file: set appendonly yes"
        elif isinstance(error, NoPermissionError):
            why = "the server's ACL does not let the user run WAITAOF (+waitaof)"
        else:
            raise
        raise UnsuitableServerError(f"store.confirm is aof, and {why}") from error
