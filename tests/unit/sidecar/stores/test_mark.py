"""The mark that shows whether Redis has lost writes, and replies in any order."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_sidecar.stores.redis.client import ScriptCall
from callstate_sidecar.stores.redis.mark import MAX_UNANSWERED, Mark


class Server:
    """One that runs the script."""

    def __init__(self) -> None:
        self.value = b""

    def run(self, call: ScriptCall) -> list[bytes]:
        """The reply; the value never goes back."""
        found, new = self.value, call.args[0]
        token, _, number = new.partition(b":")
        if not found.startswith(token) or int(found.partition(b":")[2]) < int(number):
            self.value = new
        return [found, b"", b""]


@pytest.fixture
def mark() -> Mark:
    return Mark(b"mark")


def exchange(mark: Mark, server: Server) -> None:
    call = mark.call()
    mark.check(call, server.run(call))


def test_a_server_that_keeps_everything_has_lost_nothing(mark: Mark) -> None:
    server = Server()
    for _ in range(3):
        exchange(mark, server)
    assert (mark.losses, mark.confirmed) == (0, 3)


def test_a_loss_counts_once(mark: Mark) -> None:
    exchange(mark, Server())
    server = Server()
    for _ in range(3):
        exchange(mark, server)
    assert mark.losses == 1


def test_an_older_value_is_a_loss(mark: Mark) -> None:
    server = Server()
    exchange(mark, server)
    older = server.value
    exchange(mark, server)
    server.value = older
    exchange(mark, server)
    assert mark.losses == 1


@pytest.mark.parametrize("executed", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
@pytest.mark.parametrize("answered", [[0, 1, 2], [2, 1, 0], [2, 0, 1], [1]])
def test_the_order_of_replies_is_no_loss(mark: Mark, executed: list[int], answered: list[int]) -> None:
    """Over several connections, to a server that stood still."""
    server = Server()
    exchange(mark, server)
    calls = [mark.call() for _ in range(3)]
    replies: dict[int, Any] = {index: server.run(calls[index]) for index in executed}
    for index in answered:
        mark.check(calls[index], replies[index])
    exchange(mark, server)
    assert mark.losses == 0


def test_values_that_nobody_answers_are_forgotten(mark: Mark) -> None:
    server = Server()
    exchange(mark, server)
    first = mark.call()
    for _ in range(MAX_UNANSWERED):
        mark.call()
    mark.check(first, [b"", b"", b""])
    assert mark.losses == 0
