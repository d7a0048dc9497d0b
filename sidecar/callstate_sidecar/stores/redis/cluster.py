"""A Redis Cluster: which primary has which hash slots, and commands sent to the right ones.

redis-py's own client for clusters has no bound on the wait for a connection, sleeps and retries by itself, packs
pipelines in Python, and builds a table of 16,384 entries with each look at the topology, which holds up the loop.
So only its parts are used: a client for each node, `key_slot`, and the errors that redirect.

- MOVED: the slot is elsewhere now. Follow it, and look at the topology before the next command. While word of it
  spreads, two nodes may point at each other: from the third time on, wait for a moment.
- ASK: the slot is being moved, and this key is already there. Follow it, this once.
- TRYAGAIN: the slot is being moved, and only some of a script's keys are there. Wait, for a moment.
- CLUSTERDOWN, or a node that does not answer: look at the topology before the next command, and let the caller try
  again. During a failover that lasts until the cluster has chosen a new primary.
- One primary that does not answer while others do fails what is sent to it, and no more (node_watch.py).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    ResponseError,
    TryAgainError,
)

from callstate_sidecar.stores.redis.connections import Connector, Node
from callstate_sidecar.stores.redis.errors import NodeAwayError
from callstate_sidecar.stores.redis.node_watch import NodeWatch
from callstate_sidecar.stores.redis.servers import Command, OneServer, Words, disconnect, next_cursor, pipeline
from callstate_sidecar.stores.redis.slot_map import SlotMap
from callstate_sidecar.stores.redis.suitability import no_cluster

ResultT = TypeVar("ResultT")

ATTEMPTS: Final = 16
"""How often a command is sent before its redirection is given back as its reply."""

HOPS: Final = 2
"""Redirections that are followed at once: to where a slot has moved, and from there to where its key is already."""

TRY_AGAIN_S: Final = 0.05
"""The wait after TRYAGAIN, and after more redirections. A slot of a thousand sessions is moved in less than the sum
of all attempts, and so is the word of it spread."""


class _Route(NamedTuple):
    node: Node
    asking: bool


class Cluster:
    """The primaries of a cluster.

    Args:
        connector: of a `redis+cluster://` URL.
        watch: knows which primaries are away; shared with other clients of the URL.
    """

    clustered = True

    def __init__(self, connector: Connector, watch: NodeWatch) -> None:
        self._connector = connector
        self._watch = watch
        self._looks = 0
        self._clients: dict[Node, Redis] = {}
        self._map: SlotMap | None = None
        self._looking = asyncio.Lock()

    # -- topology -----------------------------------------------------------------------------------------------

    async def _slots(self) -> SlotMap:
        """The present map; asks for it if there is none."""
        if self._map is not None and self._looks == self._watch.looks:
            return self._map
        async with self._looking:
            if self._map is None or self._looks != self._watch.looks:
                self._looks = self._watch.looks
                self._map = await self._look()
            return self._map

    async def _look(self) -> SlotMap:
        """Ask all nodes we know and take the first answer: one that is down would take its timeout to give none."""
        nodes = {*self._clients, *self._connector.url.nodes}
        asking = [asyncio.ensure_future(self._ask(node)) for node in nodes]
        try:
            slots = await self._first(asking)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        for node in {*self._clients} - {*slots.primaries}:
            await disconnect(self._clients.pop(node), in_use=True)
        self._watch.keep(slots.primaries)
        return slots

    @staticmethod
    async def _first(asking: Iterable[asyncio.Future[SlotMap]]) -> SlotMap:
        fault: Exception = ClusterDownError("no node is known")
        for answer in asyncio.as_completed(asking):
            try:
                return await answer
            except Exception as error:  # noqa: BLE001 - another may answer
                fault = error
        try:
            raise fault
        finally:
            del fault  # it would form a cycle with its traceback, which has this frame

    async def _ask(self, node: Node) -> SlotMap:
        (reply,) = await pipeline(
            self._client(node), [("CLUSTER", "SLOTS")]
        )  # of a pipeline, replies are not parsed
        if isinstance(reply, ResponseError):
            raise no_cluster(reply, self._connector.url, node)
        slots = SlotMap(reply, node)
        if not slots.primaries:
            raise ClusterDownError(f"{node[0]}:{node[1]} knows of no primary")
        return slots

    def _client(self, node: Node) -> Redis:
        if node not in self._clients:
            self._clients[node] = self._connector.node(*node)
        return self._clients[node]

    async def verify(self) -> None:
        """See that the nodes are of a cluster."""
        await self._slots()

    # -- commands -----------------------------------------------------------------------------------------------

    async def execute(self, command: Command, limit_s: float | None = None) -> Any:
        """Run one command on the server of its key."""
        async with asyncio.timeout(limit_s):
            (reply,) = await self.pipeline([command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def pipeline(self, commands: Sequence[Command], behind: Sequence[Words] = ()) -> list[Any]:
        """Run commands in one round trip to each primary, all at a time; in more to those that redirect us.

        Returns:
            as `Servers.pipeline`; NodeAwayError for a command to a primary that does not answer while others do.
        """
        replies: list[Any] = [None] * len(commands)
        after: list[Any] = []
        slots = await self._slots()
        homes = [slots.node(key_slot(command.key)) for command in commands]
        left = {i: _Route(home, asking=False) for i, home in enumerate(homes)}
        for attempt in range(ATTEMPTS):
            if attempt > HOPS or (attempt and any(isinstance(replies[i], TryAgainError) for i in left)):
                await asyncio.sleep(TRY_AGAIN_S)
            groups: dict[Node, list[int]] = defaultdict(list)
            for i, route in left.items():
                groups[route.node].append(i)
            answers = await self._all(
                self._try(node, [(commands[i].words, left[i].asking) for i in some], behind)
                for node, some in groups.items()
            )
            for some, (got, got_behind) in zip(groups.values(), answers, strict=True):
                after += got_behind
                for i, reply in zip(some, got, strict=True):
                    replies[i] = reply
            left = self._redirected(replies, left, homes)
            if not left:
                break
        return [*replies, *after]

    async def _try(
        self, node: Node, commands: Sequence[tuple[Words, bool]], behind: Sequence[Words]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """As `_send`; where the node is away, that is the reply to each of the commands."""
        away = self._watch.error(node)
        if away is None:
            try:
                return await self._send(node, commands, behind)
            except Exception as error:  # noqa: BLE001 - whatever leaks through redis-py; it may be raised again
                away = await self._judge(node, error)
        return [away] * len(commands), []

    async def _judge(self, node: Node, error: Exception) -> NodeAwayError:
        return await self._watch.judge(node, (await self._slots()).primaries, error)

    async def _send(
        self, node: Node, commands: Sequence[tuple[Words, bool]], behind: Sequence[Words]
    ) -> tuple[list[Any], list[Any]]:
        """One round trip to one primary: the replies to the commands, and to those behind."""
        words: list[Words] = []
        places: list[int] = []
        for command, asking in commands:
            if asking:
                words.append(("ASKING",))
            places.append(len(words))
            words.append(command)
        try:
            replies = await pipeline(self._client(node), [*words, *behind])
        except Exception:
            self._map = None
            raise
        answers = [replies[i] for i in places]
        if answers and all(isinstance(answer, BusyLoadingError) for answer in answers):
            raise answers[0]
        return answers, replies[len(words) :]

    def _redirected(
        self, replies: Sequence[Any], sent: Mapping[int, _Route], homes: list[Node]
    ) -> dict[int, _Route]:
        """Those to be sent again, and where to."""
        again: dict[int, _Route] = {}
        for i, route in sent.items():
            reply = replies[i]
            if isinstance(reply, MovedError):
                homes[i] = _elsewhere(reply, route.node)
                again[i] = _Route(homes[i], asking=False)
                self._map = None
            elif isinstance(reply, AskError):
                again[i] = _Route(_elsewhere(reply, route.node), asking=True)
            elif isinstance(reply, TryAgainError):
                again[i] = _Route(homes[i], asking=False)
            elif isinstance(reply, ClusterDownError):
                self._map = None
        return again

    async def _all(self, work: Iterable[Coroutine[Any, Any, ResultT]]) -> list[ResultT]:
        """Wait for all; raises the first error once none is left that could write."""
        pieces = [*work]
        if len(pieces) == 1:  # such as each command by itself, which is not worth a task
            return [await pieces[0]]
        results = await asyncio.gather(*pieces, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results  # type: ignore[return-value]

    async def each_primary(self, *words: Any) -> list[Any]:
        """Run a command without keys on every primary that is not away."""
        slots = await self._slots()
        replies = await self._all(self._try_on(node, words) for node in slots.primaries)
        return [reply for reply in replies if not isinstance(reply, NodeAwayError)]

    async def _try_on(self, node: Node, words: Words) -> Any:
        """The reply of one primary; NodeAwayError where it is away."""
        away = self._watch.error(node)
        if away is None:
            try:
                reply = await OneServer(self._client(node)).execute(Command(b"", words))
            except ResponseError:
                self._map = None
                raise
            except Exception as error:  # noqa: BLE001 - as above
                self._map = None
                away = await self._judge(node, error)
            else:
                return reply
        return away

    async def _on(self, node: Node, words: Words) -> Any:
        reply = await self._try_on(node, words)
        if isinstance(reply, NodeAwayError):
            raise reply
        return reply

    @property
    def away(self) -> str:
        """Primaries that do not answer while others do, in words; empty for none."""
        return self._watch.away

    async def slot_tags(self) -> list[bytes]:
        """A tag for each primary."""
        return (await self._slots()).tags()

    async def scan(self, cursor: str, *args: Any) -> tuple[list[Any], str]:
        """One SCAN step; the primaries are scanned one after the other. A slot that moves from one that comes later
        to an earlier one meanwhile is not seen."""
        at, _, address = cursor.partition("@")
        primaries = [(f"{host}:{port}", (host, port)) for host, port in (await self._slots()).primaries]
        left = sorted(entry for entry in primaries if entry[0] >= address)
        if not left:
            return [], ""
        name, node = left[0]
        after, keys = await self._on(node, ("SCAN", at if name == address else 0, *args))
        if int(after):
            return keys, f"{next_cursor(after)}@{name}"
        return keys, f"0@{left[1][0]}" if len(left) > 1 else ""

    async def ping(self) -> None:
        """Return once all primaries that are not away have answered."""
        await self.each_primary("PING")

    async def disconnect(self, *, in_use: bool) -> None:
        """Close the connections."""
        if in_use:
            await self._watch.close()
        for client in [*self._clients.values()]:
            await disconnect(client, in_use=in_use)


def _elsewhere(redirection: AskError, node: Node) -> Node:
    """Where a redirection points to; without a host, to the one it is from."""
    return redirection.host or node[0], int(redirection.port)
