"""How the client connects, without a socket: the dialogue of the handshake, and what each failure means."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from callstate_client.errors import (
    CallstateError,
    ConflictError,
    ConnectionLostError,
    ForbiddenError,
    InternalError,
    InvalidParamsError,
    MethodNotFoundError,
    NoDaemonError,
    OverloadedError,
    UnsupportedProtocolError,
    WireError,
)
from callstate_client.protocol import INSTANCE
from callstate_client.transport.dial import Attempt, Greeting, handshake
from callstate_client.transport.discovery import Candidate
from callstate_client.transport.identity import Identity

WORKER = Identity("w1", "of-the-store")
A, B = Candidate("/a", "the test"), Candidate("/b", "the test")
TOO_LONG = Candidate("/" + 200 * "x", "the test")


def answer(result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, "result": result}).encode()


def refusal(error: WireError) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, "error": error.to_wire()}).encode()


def outcome(dialogue: Generator[bytes, bytes, Greeting], reply: bytes) -> Greeting:
    with pytest.raises(StopIteration) as caught:
        dialogue.send(reply)
    greeting: Greeting = caught.value.value
    return greeting


class TestHandshake:
    def test_a_client_without_a_worker_id_only_requests_server_info(self):
        dialogue = handshake(None, 7)
        assert json.loads(next(dialogue)) == {"jsonrpc": "2.0", "id": 7, "method": "server.info"}
        greeting = outcome(dialogue, answer({"protocol": 1, "features": ["events"]}))
        assert (greeting.drain, greeting.features) == (None, {"events"})

    @pytest.mark.parametrize("features", [[], [INSTANCE]])
    @pytest.mark.parametrize("drain", [True, False])
    def test_a_worker_registers_as_the_daemon_knows_how_to(self, features, drain):
        dialogue = handshake(WORKER, 7)
        next(dialogue)
        request = json.loads(dialogue.send(answer({"features": features})))
        assert (request["id"], request["method"]) == (7, "worker.register")
        assert request["params"].pop("worker_id") == "w1"
        assert request["params"].keys() == ({"instance", "process"} if features else set())
        assert outcome(dialogue, answer({"worker_id": "w1", "drain": drain})).drain is drain

    def test_a_daemon_that_knows_no_workers(self):
        dialogue = handshake(WORKER, 7)
        next(dialogue)
        dialogue.send(answer({}))
        assert outcome(dialogue, refusal(MethodNotFoundError("worker.register"))).drain is None

    def test_a_daemon_of_another_protocol_is_not_registered_with(self):
        dialogue = handshake(WORKER, 7)
        next(dialogue)
        with pytest.raises(UnsupportedProtocolError):
            dialogue.send(answer({"protocol": 2}))

    @pytest.mark.parametrize("reply", [b"", b"SSH-2.0", answer(7)])
    def test_another_program_is_not_taken_for_callstated(self, reply):
        dialogue = handshake(WORKER, 7)
        next(dialogue)
        with pytest.raises(InternalError):
            dialogue.send(reply)


def tried(attempt: Attempt, **errors: OSError | CallstateError) -> list[str]:
    """The places that are tried when connecting to each fails so."""
    paths = []
    for place in attempt:
        paths.append(place.path)
        attempt.failed(place, errors[place.path.strip("/")])
    return paths


class TestAttempt:
    def test_a_place_without_a_socket_leads_to_the_next(self):
        attempt = Attempt([A, B])
        assert tried(attempt, a=FileNotFoundError(2, "none"), b=FileNotFoundError(2, "none")) == ["/a", "/b"]
        attempt.check(1.0)
        with pytest.raises(NoDaemonError, match="/a: absent\n  /b: absent"):
            attempt.check(0.0)

    @pytest.mark.parametrize(
        "error",
        [ConnectionRefusedError(111, "refused"), TimeoutError(), OverloadedError(), ConnectionLostError("lost")],
    )
    def test_a_socket_that_is_there_is_the_last_place(self, error):
        attempt = Attempt([A, B])
        assert tried(attempt, a=error) == ["/a"]
        attempt.check(1.0)
        with pytest.raises(NoDaemonError) as caught:
            attempt.check(0.0)
        assert caught.value.silent is isinstance(error, TimeoutError)

    @pytest.mark.parametrize(
        "error", [ConflictError("w1"), ForbiddenError(), InvalidParamsError(), UnsupportedProtocolError("old", 2)]
    )
    def test_a_refusal_is_raised_at_once(self, error):
        attempt = Attempt([A, B])
        assert tried(attempt, a=error) == ["/a"]
        with pytest.raises(type(error)) as caught:
            attempt.check(1.0)
        assert caught.value is error

    def test_an_unexpected_answer_is_named(self):
        attempt = Attempt([A])
        tried(attempt, a=InternalError("SSH-2.0"))
        with pytest.raises(NoDaemonError, match=r"does not answer like callstated: SSH-2\.0"):
            attempt.check(0.0)

    def test_a_path_that_can_not_be_a_socket_is_hopeless(self):
        attempt = Attempt([TOO_LONG, A])
        assert tried(attempt) == []
        with pytest.raises(NoDaemonError, match="at most"):
            attempt.check(1.0)

    def test_an_unusable_directory_is_not_connected_to(self, tmp_path: Path):
        attempt = Attempt([Candidate(str(tmp_path / "none" / "s"), "the test", private=True), A])
        assert tried(attempt, a=ConnectionRefusedError()) == ["/a"]
