from __future__ import annotations

import msgspec
import pytest

from callstate_client import protocol as p
from callstate_client.errors import ConnectionLostError, ParseError, TooLargeError
from callstate_client.transport.pending import OPS_REMEMBERED, REPEATABLE, PendingRequest, PendingRequests

PARAMS = p.RecordInterruptionParams(session_id="c1", op="x")


class Named(str):
    """A waiter known by its name."""

    __slots__ = ("error",)

    error: Exception | None

    def __new__(cls, name: str) -> Named:
        made = super().__new__(cls, name)
        made.error = None
        return made

    def done(self) -> bool:
        return self.error is not None

    def set_result(self, line: bytes) -> None:
        raise AssertionError("the requests hand out waiters, and call none with a reply")

    def set_exception(self, error: Exception) -> None:
        self.error = error


class Bench:
    """Requests whose waiters are names."""

    def __init__(self) -> None:
        self.waiters: list[Named] = []
        self.calls = PendingRequests()

    def add(
        self, name: str, *, method: str = "server.ping", op_of: str | None = None, at: float = 1.0
    ) -> PendingRequest:
        self.waiters.append(Named(name))
        params = PARAMS if name == "longest" else None
        return self.calls.add(method, params, self.waiters[-1], deadline=at, op_of=op_of)

    @property
    def failed(self) -> list[tuple[str, Exception]]:
        return [(waiter, waiter.error) for waiter in self.waiters if waiter.error is not None]

    def sent(self, name: str, *, method: str = "server.ping", op_of: str | None = None) -> PendingRequest:
        call = self.add(name, method=method, op_of=op_of)
        call.connection = 1
        return call

    def lost(self) -> list[object]:
        return [call.waiter for call in self.calls.connection_lost()]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def reply(request_id: int) -> bytes:
    return b'{"jsonrpc":"2.0","id":%d,"result":{}}' % request_id


def test_replies_come_in_any_order(bench: Bench) -> None:
    one, two = bench.add("one"), bench.add("two")
    assert one.line != two.line
    assert bench.calls.take_waiter(reply(two.request_id)) == "two"
    assert bench.calls.take_waiter(b'{"id": %d, "jsonrpc": "2.0", "result": {}}' % one.request_id) == "one"
    assert len(bench.calls) == 0
    assert bench.calls.take_waiter(reply(one.request_id)) is None
    assert bench.calls.take_waiter(reply(99)) is None


@pytest.mark.parametrize("line", [b"", b"hello", b"[]", b'{"id":[]}', b"\xff", b'{"id":1,"error":7}'])
def test_malformed_replies_break_the_connection(bench: Bench, line: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        bench.calls.take_waiter(line)


def test_a_notification_answers_no_request(bench: Bench) -> None:
    assert bench.calls.take_waiter(b'{"jsonrpc":"2.0","method":"event","params":{}}') is None


def test_an_error_without_id_is_handed_over(bench: Bench) -> None:
    bench.add("one")
    assert isinstance(bench.calls.take_waiter(b'{"id":null,"error":{"code":-32700}}'), ParseError)
    assert len(bench.calls) == 1


def test_too_large_without_id_was_the_longest(bench: Bench) -> None:
    bench.add("short")
    bench.add("longest", method="session.save", op_of="c1")
    assert bench.calls.take_waiter(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32008,"message":"m"}}') is None
    ((waiter, error),) = bench.failed
    assert waiter == "longest"
    assert isinstance(error, TooLargeError)
    assert len(bench.calls) == 1


def test_late(bench: Bench) -> None:
    bench.add("a", at=5)
    bench.add("b", at=3)
    assert bench.calls.next_deadline == 3
    assert bench.calls.take_expired(2.9) == []
    assert [call.waiter for call in bench.calls.take_expired(3)] == ["b"]
    assert bench.calls.next_deadline == 5
    assert [call.waiter for call in bench.calls.take_expired(9)] == ["a"]
    assert bench.calls.next_deadline is None


def test_repeatable_requests_are_sent_again_in_order_and_the_rest_fail(bench: Bench) -> None:
    bench.sent("ping")
    bench.sent("blind", method="session.save")
    bench.sent("with op", method="session.save", op_of="c1")
    bench.add("never sent", method="session.save")
    assert bench.lost() == ["ping", "with op", "never sent"]
    ((waiter, error),) = bench.failed
    assert waiter == "blind"
    assert isinstance(error, ConnectionLostError)


def test_no_mutation_is_repeatable_without_op() -> None:
    mutations = {
        "save",
        "add_turn",
        "amend_turn",
        "record_interruption",
        "update",
        "end",
        "claim",
        "claim_next",
    }
    assert not {f"session.{verb}" for verb in mutations} & REPEATABLE


def test_only_as_many_mutations_of_a_session_as_the_daemon_remembers(bench: Bench) -> None:
    for n in range(OPS_REMEMBERED + 2):
        bench.sent(f"m{n}", method="session.add_turn", op_of="c1")
    bench.sent("other", method="session.add_turn", op_of="c2")
    bench.add("unsent", method="session.add_turn", op_of="c1")
    assert bench.lost() == [*(f"m{n}" for n in range(2, OPS_REMEMBERED + 2)), "other", "unsent"]
    assert {waiter for waiter, _ in bench.failed} == {"m0", "m1"}


def test_fail_all(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    error = RuntimeError()
    bench.calls.fail_all(error)
    assert bench.failed == [("a", error), ("b", error)]
    assert len(bench.calls) == 0


def test_a_cancelled_waiter_gets_no_reply(bench: Bench) -> None:
    call = bench.add("a")
    error = RuntimeError()
    call.fail(error)
    call.fail(RuntimeError())
    assert bench.failed == [("a", error)]
    assert not bench.calls.are_waited_for


def test_dropped_is_dropped(bench: Bench) -> None:
    call = bench.add("a")
    bench.calls.drop(call)
    bench.calls.drop(call)
    assert len(bench.calls) == 0
