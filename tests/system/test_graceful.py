"""A service that holds calls is log to stop, and no call is lost by it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from callstate_client import Record, SessionState, sync
from support.daemon import Daemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

WITHIN_S = 60

SERVICE = """
import asyncio, sys
from callstate_client import SessionState, ShuttingDownError, connect

async def talk(store, session_id, over):
    async with store.hold(SessionState(session_id, status="active"), cancel_on_lost=True) as call:
        print("holds", session_id, flush=True)
        for number in range(20):
            call.add_turn("user", str(number))
        await over.wait()
        call.add_turn("agent", "goodbye")

async def main(socket, finish_s):
    async with connect(socket, "service") as store, store.graceful(finish_s) as leaving:
        never = asyncio.Event()
        talks = [
            asyncio.create_task(talk(store, "ends", leaving._began)),  # its caller hangs up just then
            asyncio.create_task(talk(store, "goes-on", never)),
        ]
        await leaving.wait()
        print("leaves", flush=True)
    outcomes = await asyncio.gather(*talks, return_exceptions=True)
    print(*leaving.result, *(type(outcome).__name__ for outcome in outcomes), flush=True)

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""


class Service:
    """One run of it."""

    def __init__(self, daemon: Daemon, finish_s: float) -> None:
        command = [sys.executable, "-c", SERVICE, str(daemon.socket), str(finish_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def said(self) -> list[str]:
        """Its next line, in words."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def close(self) -> int:
        """Wait for its end; gives the exit status."""
        self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode


def kept(daemon: Daemon) -> dict[str, Record]:
    with sync.connect(daemon.socket) as store:
        return {record.state.id: record for record in store.sessions()}


@pytest.mark.parametrize(("signals", "finish_s"), [([signal.SIGTERM], 1), ([signal.SIGTERM, signal.SIGINT], 3600)])
def test_calls_end_or_are_released_with_all_their_turns(
    daemon: Daemon, signals: list[signal.Signals], finish_s: float
) -> None:
    service = Service(daemon, finish_s)
    assert {service.said()[1], service.said()[1]} == {"ends", "goes-on"}
    service.process.send_signal(signals[0])
    assert service.said() == ["leaves"]
    for number in signals[1:]:
        while kept(daemon)["ends"].state.is_active:  # the call that comes to its end has the time for it
            pass
        service.process.send_signal(number)
    assert service.said() == ["1", "1", "NoneType", "ShuttingDownError"]
    assert service.close() == 0
    calls = kept(daemon)
    assert (calls["ends"].ended_reason, calls["ends"].turn_count) == ("completed", 21)
    goes_on = calls["goes-on"]
    assert (goes_on.state.status, goes_on.owner, goes_on.turn_count) == ("active", None, 20)


def test_a_released_call_goes_to_another_worker_at_once(daemon: Daemon) -> None:
    service = Service(daemon, 0)
    assert {service.said()[1], service.said()[1]} == {"ends", "goes-on"}
    service.process.send_signal(signal.SIGTERM)
    service.close()
    with sync.connect(daemon.socket) as store:
        record = store.claim_next()
        assert record is not None
        assert isinstance(record.state, SessionState)
        assert record.turn_count >= 20
