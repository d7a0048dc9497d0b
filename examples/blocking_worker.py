"""A worker without asyncio: a thread for each call, which takes an order and can go on with another worker's.

In place of a telephone line there is a TCP connection, and lines of text are what is said. `nc 127.0.0.1 8010`
calls: the first line is an id and the two numbers, each further one is what the caller says.

    call-1 +15550100 +15550199
    a pizza

Kill the worker, start it again, and call with the same id: the order goes on. On SIGTERM the calls that are up are
released, for whichever worker their callers get next.

    python examples/blocking_worker.py [--port 8010] [--socket PATH]
"""

from __future__ import annotations

import argparse
import signal
import socketserver
import threading
from contextlib import suppress
from socket import SHUT_RD, socket
from typing import cast

from callstate_client import SessionState, Status
from callstate_client.sync import HeldCall, Store, connect


class HungUpError(Exception):
    """The caller has hung up."""

    reason = "hung_up"


class ReplacedError(Exception):
    """This worker is being replaced. No reason to end a call: leaving its block by this releases it."""


class Line(socketserver.StreamRequestHandler):
    """One call, in a thread of its own."""

    @property
    def worker(self) -> Worker:
        """Whose call it is."""
        return cast("Worker", self.server)

    def handle(self) -> None:
        """From the first ring to the last word."""
        self.worker.lines.add(self.connection)
        with suppress(HungUpError, ReplacedError):
            call_id, caller, callee = self.hear().split()
            state = SessionState(call_id, provider="tcp", from_=caller, to=callee, status=Status.ACTIVE)
            with self.worker.store.hold(state, resume=True, end_on=HungUpError) as call:
                self.take_order(call)

    def finish(self) -> None:
        """The line is closed."""
        self.worker.lines.discard(self.connection)
        super().finish()

    def take_order(self, call: HeldCall) -> None:
        """Talk to the end. Each method of the call returns when the daemon has acknowledged it."""
        order: list[str] = list((call.state.recovery_data or {}).get("order", ()))
        self.say(call, "Sorry, we were cut off. Anything else?" if call.state.history else "What would you like?")
        while (said := self.hear()) != "no":
            call.add_turn("user", said)
            order.append(said)
            call.update(recovery_data={"order": order})
            self.say(call, "Anything else?")
        call.add_turn("user", said)
        self.say(call, f"So that is {' and '.join(order) or 'nothing'}. Goodbye!")

    def hear(self) -> str:
        """What the caller says next.

        Raises:
            HungUpError, ReplacedError: nothing more will come.
        """
        line = b""
        with suppress(OSError):  # of this line only: an error of the daemon's is none of the caller's
            line = self.rfile.readline()
        if not line or self.worker.replaced:
            raise ReplacedError if self.worker.replaced else HungUpError
        return line.decode().strip()

    def say(self, call: HeldCall, text: str) -> None:
        """Kept before it is heard: what the caller knows, the next worker knows too."""
        call.add_turn("agent", text)
        with suppress(OSError):  # the caller is gone, and hear() says so
            self.wfile.write(f"{text}\n".encode())


class Worker(socketserver.ThreadingTCPServer):
    """Listens, and gives each call a thread. One store serves them all."""

    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], store: Store) -> None:
        super().__init__(address, Line)
        self.store = store
        self.lines: set[socket] = set()
        """Of the calls that are up."""
        self.replaced = False

    def stop(self) -> None:
        """Take no more calls, and release those that are up."""
        self.replaced = True
        for line in list(self.lines):
            with suppress(OSError):  # the caller was faster
                line.shutdown(SHUT_RD)  # its thread reads to the end
        self.shutdown()


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="a worker with threads")
    parser.add_argument("--port", type=int, default=8010, help="0: any that is free; it is printed")
    parser.add_argument("--socket", help="the daemon's; found by itself where left out")
    args = parser.parse_args()
    with connect(args.socket, wait_s=20) as store, Worker(("127.0.0.1", args.port), store) as worker:
        for number in (signal.SIGTERM, signal.SIGINT):  # not in the handler: stop() waits for the loop below
            signal.signal(number, lambda *_: threading.Thread(target=worker.stop).start())
        print(f"listening on {worker.server_address[1]}", flush=True)
        worker.serve_forever(poll_interval=0.1)  # and then wait, in leaving the block, for the threads


if __name__ == "__main__":
    main()
