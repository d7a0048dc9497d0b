"""Whether a primary is away is found out anew for each failure that comes after the last answer."""

from __future__ import annotations

import asyncio

import pytest

from callstate_sidecar.config.redis_url import parse_redis_url
from callstate_sidecar.stores.redis.connections import Connector, Node
from callstate_sidecar.stores.redis.node_watch import NodeWatch

NODE, OTHER = ("127.0.0.1", 1), ("127.0.0.1", 2)


class Watch(NodeWatch):
    """One whose pings are answered as the test says, when it says so."""

    def __init__(self) -> None:
        super().__init__(Connector(parse_redis_url("redis+cluster://h:1"), None, connections=1, timeout_s=1.0))
        self.answering = {NODE, OTHER}
        self.may_answer = asyncio.Event()
        self.pings: list[Node] = []

    async def _answers(self, node: Node) -> bool:
        self.pings.append(node)
        await self.may_answer.wait()
        return node in self.answering


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_failures_at_the_same_time_ask_once() -> None:
    watch = Watch()
    watch.answering = {OTHER}
    judging = [asyncio.ensure_future(watch.judge(NODE, [NODE, OTHER], OSError("gone"))) for _ in range(3)]
    await turns(3)
    watch.may_answer.set()
    assert len({str(error) for error in await asyncio.gather(*judging)}) == 1
    assert sorted(watch.pings) == [NODE, OTHER]
    await watch.close()


@pytest.mark.parametrize("was_away", [False, True])
async def test_an_answer_that_nobody_waits_for_any_more_is_not_the_next_ones(was_away: bool) -> None:
    """A read has a limit of its own, which is over before a primary that hangs has not answered a ping."""
    watch = Watch()
    watch.answering = {OTHER} if was_away else {NODE, OTHER}
    reading = asyncio.ensure_future(watch.judge(NODE, [NODE, OTHER], OSError("gone")))
    await turns(3)
    reading.cancel()
    await turns(3)
    watch.may_answer.set()
    await turns(5)
    watch.answering ^= {NODE}
    if was_away:
        with pytest.raises(OSError, match="gone"):
            await watch.judge(NODE, [NODE, OTHER], OSError("gone"))
    else:
        assert "gone" in str(await watch.judge(NODE, [NODE, OTHER], OSError("gone")))
    await watch.close()
