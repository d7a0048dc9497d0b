"""Signals while the daemon serves, in a process of their own: the second one ends it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from callstate_sidecar.system.exits import Exit

BUSY = r"""
import asyncio, os
from callstate_sidecar.system.signals import Signals

def say(what, name):  # unbuffered: a second signal may come before the first line is quite out
    os.write(1, f"{what} {name}\n".encode())

async def main():
    def stop(name):
        say("stop", name)
        os.read(0, 1)  # as a checkpoint of the stop keeps the loop busy

    loop = asyncio.get_running_loop()
    Signals().serve(loop.call_soon_threadsafe, stop, lambda name: say("at once", name), print)
    print("serving", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_is_heard_while_the_loop_is_busy(first: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"stop {first.name}\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "at once SIGTERM\n"
        assert process.wait(20) == Exit.FAILED
