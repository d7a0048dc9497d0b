"""A client of the daemon in plain Python, without callstate; it holds one call, and each line of stdin was said.

python plain_client.py SOCKET CALL_ID
"""

import itertools
import json
import random
import socket
import sys
import threading
import time
import uuid


class Daemon:
    def __init__(self, path, worker_id):
        self.path, self.lines, self.lock, self.ids = path, None, threading.Lock(), itertools.count(1)
        self.me = {"worker_id": worker_id, "instance": uuid.uuid4().hex, "process": uuid.uuid4().hex}

    def request(self, method, patience_s=30, **params):
        if method not in ("session.load", "session.heartbeat"):
            params["op"] = uuid.uuid4().hex  # sent again with the same op, a change takes effect once
        until = time.monotonic() + patience_s
        while True:
            try:
                with self.lock:
                    reply = self._connect() or self._ask(method, params)
            except OSError:  # the daemon restarts: connect again, and send the request again
                reply, self.lines = {"error": {"message": "no answer", "data": {"retryable": True}}}, None
            if "result" in reply:
                return reply["result"]
            if not reply["error"]["data"]["retryable"] or time.monotonic() > until:
                raise RuntimeError(reply["error"])  # of kind `fenced` or `session_ended`: hang up
            time.sleep(random.uniform(0.05, 0.5))

    def _connect(self):
        if self.lines is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(10)
            connection.connect(self.path)
            self.lines = connection.makefile("rwb")
            reply = self._ask("worker.register", self.me)
            if "error" in reply:
                self.lines = None
                return reply
        return None

    def _ask(self, method, params):
        request = {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params}
        self.lines.write(json.dumps(request).encode() + b"\n")
        self.lines.flush()
        for line in self.lines:
            if (reply := json.loads(line)).get("id") == request["id"]:
                return reply
        raise ConnectionError("the daemon has closed the connection")


def main(path, call_id):
    daemon, over = Daemon(path, f"plain-{call_id}"), threading.Event()
    session = {"id": call_id, "provider": "sip", "status": "active"}
    saved = daemon.request("session.save", session=session, if_version=0)  # only if there is none yet
    call = {"session_id": call_id, "epoch": saved["epoch"]}

    def beat():
        while not over.wait(saved["heartbeat_timeout_s"] / 3):
            daemon.request("session.heartbeat", session_id=call_id)

    threading.Thread(target=beat, daemon=True).start()
    for line in sys.stdin:
        turn = {"role": "user", "content": line.strip(), "duration_ms": 900}
        daemon.request("session.add_turn", **call, turn=turn)
        print("acknowledged", line.strip(), flush=True)
    over.set()
    daemon.request("session.end", **call, reason="caller_hangup")


if __name__ == "__main__":
    main(*sys.argv[1:])
