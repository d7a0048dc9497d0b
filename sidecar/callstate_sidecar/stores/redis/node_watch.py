"""Primaries of a cluster that do not answer while others do.

What is in their slots has to wait; the rest must not. So a primary that failed a request is pinged, beside all
others. If it answers, the request was at fault; if no other answers either, the whole store is down. Otherwise it
is away: requests to it fail at once, until it answers a ping or another node has its slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.stores.redis.connections import Connector, Node
from callstate_sidecar.stores.redis.errors import NodeAwayError
from callstate_sidecar.stores.redis.servers import disconnect, pipeline

log = EventLog(__name__)

PING_EVERY_S: Final = 0.5
"""How often a primary that is away is pinged, and the topology is looked at: a replica may take its place."""


class NodeWatch:
    """Which primaries are away, for all clients of one cluster.

    Args:
        connector: of the cluster's URL.

    Attributes:
        looks: grows with each ping of those that are away; whoever has looked at the topology before looks again.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._away: dict[Node, str] = {}
        self._pinging: asyncio.Task[None] | None = None
        self._judging: dict[Node, asyncio.Task[bool]] = {}
        self.looks = 0

    @property
    def away(self) -> str:
        """Those that are away, in words; empty for none."""
        return "; ".join(map(_words, self._away.items()))

    def error(self, node: Node) -> NodeAwayError | None:
        """The error of a request to this node, if it is away."""
        why = self._away.get(node)
        return None if why is None else NodeAwayError(_words((node, why)))

    async def judge(self, node: Node, primaries: Collection[Node], error: Exception) -> NodeAwayError:
        """Find out why a request failed.

        Args:
            node: where it was sent.
            primaries: of the cluster, this one included.
            error: what it failed with.

        Returns:
            that the node is away.

        Raises:
            Exception: `error`, as it answers, or no other does.
        """
        if node not in self._judging:
            judging = self._judging[node] = asyncio.ensure_future(self._is_alone_away(node, primaries))
            judging.add_done_callback(lambda _: self._judging.pop(node, None))
        if not await asyncio.shield(self._judging[node]):
            raise error
        why = f"{type(error).__name__}: {error}"
        if node not in self._away:
            log.warning(
                "store_part_down", "primary %s:%d of the cluster does not answer (%s); sessions in its slots wait",
                *node, why,
            )  # fmt: skip
            self._away[node] = why
        if self._pinging is None or self._pinging.done():
            self._pinging = asyncio.ensure_future(self._ping_until_back())
        return NodeAwayError(_words((node, why)))

    async def _is_alone_away(self, node: Node, primaries: Collection[Node]) -> bool:
        others = [other for other in primaries if other != node and other not in self._away]
        answers, *any_other = await asyncio.gather(*map(self._answers, [node, *others]))
        return not answers and any(any_other)

    async def _answers(self, node: Node) -> bool:
        client = self._connector.node(*node)
        try:
            (reply,) = await pipeline(client, [("PING",)])
        except Exception:  # noqa: BLE001 - whatever leaks through redis-py: it does not answer
            return False
        finally:
            await disconnect(client, in_use=True)
        return not isinstance(reply, Exception)

    async def _ping_until_back(self) -> None:
        while self._away:
            await asyncio.sleep(PING_EVERY_S)
            self.looks += 1
            nodes = [*self._away]
            for node, answers in zip(nodes, await asyncio.gather(*map(self._answers, nodes)), strict=True):
                if answers and self._away.pop(node, None) is not None:
                    log.info("store_part_up", "primary %s:%d of the cluster answers again", *node)

    def keep(self, primaries: Collection[Node]) -> None:
        """Forget those that are no primaries any more."""
        for node in {*self._away} - {*primaries}:
            del self._away[node]
            log.info("store_part_moved", "another node now serves the slots of %s:%d", *node)

    async def close(self) -> None:
        """Ping no more."""
        tasks = [*self._judging.values(), *([self._pinging] if self._pinging else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _words(away: tuple[Node, str]) -> str:
    (host, port), why = away
    return f"primary {host}:{port} of the cluster does not answer ({why})"
