"""Scripts and commands over redis-py, with two kinds of error.

Any failure, including exceptions that leak through redis-py, becomes StoreDownError (no answer) or
StoreRefusingError (the answer is an error that concerns the whole server).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from redis.exceptions import NoScriptError, ResponseError

from callstate_client.engine.sessions.stored import StoreDownError, StoreRefusingError
from callstate_sidecar.config.redis_url import parse_redis_url
from callstate_sidecar.config.tls import tls_context
from callstate_sidecar.stores.redis.cluster import Cluster
from callstate_sidecar.stores.redis.connections import Connector
from callstate_sidecar.stores.redis.errors import NodeAwayError, describe, translate
from callstate_sidecar.stores.redis.node_watch import NodeWatch
from callstate_sidecar.stores.redis.replies import BrokenError
from callstate_sidecar.stores.redis.scripts import Script
from callstate_sidecar.stores.redis.sentinel import Sentinels, SentinelServer
from callstate_sidecar.stores.redis.servers import Command, OneServer, Servers, Words, next_cursor
from callstate_sidecar.stores.redis.suitability import verify_append_only

ResultT = TypeVar("ResultT")
ArgsT = TypeVarTuple("ArgsT")


def connect(url: str, *, connections: int, timeout_s: float) -> Servers:
    """The servers of a URL, for one client; see `connect_each`."""
    return connect_each(url, [connections], timeout_s=timeout_s)[0]


def connect_each(
    url: str, connections: Sequence[int], *, timeout_s: float, password: str | None = None, name: str = ""
) -> list[Servers]:
    """The servers of a URL, for several clients, so that none waits for another's connections. They connect at the
    first command.

    Args:
        url: see config/redis_url.py; options in its query take precedence.
        connections: for each client, how many it may have to each server at a time; further commands wait.
        timeout_s: longest wait for a connection, for connecting, and for each reply, seconds.
        password: used if the URL has none.
        name: CLIENT SETNAME of the connections; empty for none.

    Raises:
        ValueError: the URL is not as described. The message contains no password.
    """
    parsed = parse_redis_url(url)
    tls = tls_context(parsed)
    connectors = [
        Connector(parsed, tls, connections=number, timeout_s=timeout_s, password=password, name=name)
        for number in connections
    ]
    if parsed.topology == "sentinel":
        sentinels = Sentinels(connectors[0])
        return [SentinelServer(connector, sentinels) for connector in connectors]
    if parsed.topology == "cluster":
        watch = NodeWatch(connectors[-1])
        return [Cluster(connector, watch) for connector in connectors]
    return [OneServer(connector.server(), connector) for connector in connectors]


class ScriptCall(NamedTuple):
    """One run of a script."""

    script: Script
    keys: Sequence[bytes]
    args: Sequence[Any]


class ScriptClient:
    """Runs scripts and commands, and translates errors.

    Args:
        servers: from `connect`, or around the caller's own client.
        owned: close the connections with this object.
        limit_s: timeout of each attempt of a `run` or `command`, seconds; None leaves it to the connections'.
        confirms: the servers have to be able to say what is in their append-only files (WAITAOF).

    Before the first use it sees that the servers are what the URL says, and raises StoreUnsuitableError if not.
    """

    def __init__(
        self, servers: Servers, *, owned: bool, limit_s: float | None = None, confirms: bool = False
    ) -> None:
        self._servers = servers
        self._confirms = confirms
        self._verified = False
        self._verifying: asyncio.Future[None] | None = None
        self._owned = owned
        self._limit_s = limit_s
        self._closed = False

    @property
    def clustered(self) -> bool:
        """Whether all keys of one script have to be in one hash slot."""
        return self._servers.clustered

    @property
    def away(self) -> str:
        """Which part of the servers does not answer while others do, in words; empty for none."""
        return self._servers.away

    async def run(self, script: Script, keys: Sequence[bytes], *args: Any) -> Any:
        """Run a script; returns its reply.

        Raises:
            StoreDownError: no answer.
            StoreRefusingError: the answer is an error.
        """
        known = Command(keys[0], ("EVALSHA", script.sha, len(keys), *keys, *args))
        again = script.repeatable
        try:
            return await self._use(self._servers.execute, known, self._limit_s, again=again)
        except NoScriptError:  # restarted, or a new server; EVAL also caches the script
            whole = Command(keys[0], ("EVAL", script.text, len(keys), *keys, *args))
            return await self._use(self._servers.execute, whole, self._limit_s, again=again)

    async def command(self, name: str, key: bytes, *args: Any) -> Any:
        """Run one command on a key, twice if need be (see `_use`); returns its reply. Raises as `run`."""
        return await self._use(self._servers.execute, Command(key, (name, key, *args)), self._limit_s, again=True)

    async def members(self, key: bytes, cursor: str, count: int) -> tuple[list[Any], str]:
        """One SSCAN step over a set: about `count` members, and the next cursor, empty after the last. Raises as
        `run`."""
        after, members = await self.command("SSCAN", key, cursor or 0, "COUNT", count)
        return members, next_cursor(after)

    async def slot_tags(self) -> list[bytes]:
        """For each primary a text that, in braces, puts a key into one of its slots; a single empty one if there
        are no slots. Raises as `run`."""
        return await self._limited(self._servers.slot_tags)

    async def each_primary(self, *words: Any) -> list[Any]:
        """Run a command without keys on every primary that is not away; returns the replies. Raises as `run`."""
        return await self._limited(self._servers.each_primary, *words)

    async def scan(self, cursor: str, *args: Any) -> tuple[list[bytes], str]:
        """One SCAN step over all keys there are: keys, and the next cursor, empty after the last. Raises as `run`.

        Args:
            cursor: empty for the first step.
            args: MATCH, COUNT, TYPE and what belongs to them.
        """
        return await self._limited(self._servers.scan, cursor, *args)

    async def ping(self) -> None:
        """Return once every primary that is not away has answered. Raises as `run`."""
        await self._limited(self._servers.ping)

    async def _limited(self, use: Callable[[*ArgsT], Awaitable[ResultT]], *args: *ArgsT) -> ResultT:
        """As `_use`, within the limit, for what may be sent twice."""
        if self._limit_s is None:
            return await self._use(use, *args, again=True)

        async def in_time() -> ResultT:
            async with asyncio.timeout(self._limit_s):
                return await use(*args)

        return await self._use(in_time, again=True)

    async def _use(
        self, use: Callable[[*ArgsT], Awaitable[ResultT]], *args: *ArgsT, again: bool = False
    ) -> ResultT:
        """Use the servers; translates errors but NoScriptError.

        Args:
            use: what to do.
            args: its own.
            again: it may be done twice, and is if its connection breaks: one that was idle may have ended
                unnoticed, by a restart of the server or by what is in between, and that is no failure of the store.
        """
        if self._closed:
            raise StoreDownError("the store is closed")
        try:
            if not self._verified:
                await self._verify()
            try:
                return await use(*args)
            except BrokenError as error:
                if not again or self._closed:
                    raise
                _drop_frames(error)
            await self._servers.disconnect(in_use=False)  # others may have ended as well
            return await use(*args)
        except NoScriptError as error:
            _drop_frames(error)
            raise
        except Exception as error:
            _drop_frames(error)
            raise translate(error) from error

    async def run_each(self, calls: Sequence[ScriptCall], behind: Sequence[Words] = ()) -> list[Any]:
        """Run scripts, then the commands `behind`, in one round trip to each server concerned.

        The timeout applies to each reply rather than to all of them, so a slow server may work through a large
        batch. Calls on keys of different slots may be executed in any order, where `clustered`.

        Args:
            calls: with all keys of each in one hash slot, where `clustered`.
            behind: commands without keys, which each of the servers runs after what it got of the calls.

        Returns:
            one reply each, or the ResponseError that it failed with, or NodeAwayError where its server is away;
            then those of `behind`, server by server.

        Raises:
            StoreDownError: a connection failed; some of the calls may have been executed.
            StoreRefusingError: a server refused the connection.
        """
        replies = await self._pipeline(calls, behind)
        unknown = [i for i, reply in enumerate(replies[: len(calls)]) if isinstance(reply, NoScriptError)]
        if unknown:
            left = [calls[i] for i in unknown]
            for text in {call.script.text for call in left}:
                await self.each_primary("SCRIPT", "LOAD", text)
            second = await self._pipeline(left, behind)
            for i, reply in zip(unknown, second, strict=False):
                replies[i] = reply
            replies += second[len(left) :]
        return replies

    async def commands(self, *commands: Words) -> list[Any]:
        """Run commands, the first argument of each being its key, in one round trip to each server concerned; twice
        if need be (see `_use`).

        Raises:
            StoreDownError: a connection failed; some of them may have been executed.
            StoreRefusingError: the reply to one of them is an error.
        """
        replies = await self.try_commands(*commands)
        for reply in replies:
            if isinstance(reply, NodeAwayError):
                raise translate(reply)
        return replies

    async def try_commands(self, *commands: Words) -> list[Any]:
        """As `commands`, with NodeAwayError as the reply to those whose server is away."""
        if not commands:
            return []
        each = [Command(words[1], words) for words in commands]
        replies = await self._use(self._servers.pipeline, each, (), again=True)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise StoreRefusingError(describe(reply))
        return replies

    async def _pipeline(self, calls: Sequence[ScriptCall], behind: Sequence[Words]) -> list[Any]:
        commands = [
            Command(keys[0], ("EVALSHA", script.sha, len(keys), *keys, *args)) for script, keys, args in calls
        ]
        again = all(call.script.repeatable for call in calls)
        return await self._use(self._servers.pipeline, commands, behind, again=again)

    async def _verify(self) -> None:
        """See that the servers are what the URL says, before they are first used: once for all that wait for it."""
        if self._verifying is None:
            self._verifying = asyncio.ensure_future(self._verify_now())
            self._verifying.add_done_callback(self._verification_ended)
        await asyncio.shield(self._verifying)

    def _verification_ended(self, verifying: asyncio.Future[None]) -> None:
        self._verifying = None
        self._verified = not verifying.cancelled() and verifying.exception() is None

    async def _verify_now(self) -> None:
        async with asyncio.timeout(self._limit_s):  # of its own: a slow server would never get beyond this
            await self._servers.verify()
            if self._confirms:
                await verify_append_only(self._servers.each_primary)

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        self._closed = True
        if self._verifying is not None:  # its cancellation would reach those who wait for it
            await asyncio.wait([self._verifying])
        if self._owned:
            await self._servers.disconnect(in_use=True)


def _drop_frames(error: BaseException | None) -> None:
    """Let go of what an error and its causes have passed: frames of redis-py and asyncio refer to the error, or to
    a stream that does, which would be a cycle."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
