// A client of the daemon in plain Node, without packages; it holds one call, and each line of stdin was said.
//
// node client.mjs SOCKET CALL_ID

import { randomUUID } from "node:crypto";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const GONE = { error: { message: "no answer", data: { retryable: true } } };

class Daemon {
  waiting = new Map(); ids = 0; connection = null;

  constructor(path, workerId) {
    this.path = path;
    this.me = { worker_id: workerId, instance: randomUUID(), process: randomUUID() };
  }

  async request(method, params, patienceMs = 30_000) {
    // sent again with the same op, a change takes effect once
    if (!["session.load", "session.heartbeat"].includes(method)) params = { ...params, op: randomUUID() };
    for (const until = Date.now() + patienceMs; ; await sleep(50 + 450 * Math.random())) {
      if (!this.connection) this.open(); // the daemon restarts: connect again, and send the request again
      let reply = await this.registered;
      if (reply.error) this.connection?.destroy();
      else reply = this.connection ? await this.ask(method, params) : GONE;
      if (reply.result) return reply.result;
      // of kind `fenced` or `session_ended`: hang up
      if (!reply.error.data.retryable || Date.now() > until) throw Object.assign(new Error(), reply.error);
    }
  }

  open() {
    const connection = (this.connection = connect(this.path));
    connection.on("error", () => {}).on("close", () => {
      this.connection = null;
      for (const answer of this.waiting.values()) answer(GONE);
      this.waiting.clear();
    });
    createInterface({ input: connection }).on("error", () => {}).on("line", (line) => {
      const reply = JSON.parse(line);
      this.waiting.get(reply.id)?.(reply);
      this.waiting.delete(reply.id);
    });
    this.registered = this.ask("worker.register", this.me);
  }

  ask(method, params) {
    const id = ++this.ids;
    this.connection.write(JSON.stringify({ jsonrpc: "2.0", id, method, params }) + "\n");
    return new Promise((answer) => this.waiting.set(id, answer));
  }
}

const [path, callId] = process.argv.slice(2);
const daemon = new Daemon(path, `node-${callId}`);
const session = { id: callId, provider: "sip", status: "active" };
const saved = await daemon.request("session.save", { session, if_version: 0 }); // only if there is none yet
const call = { session_id: callId, epoch: saved.epoch };
const beating = setInterval(() => {
  daemon.request("session.heartbeat", { session_id: callId });
}, (saved.heartbeat_timeout_s * 1000) / 3);
for await (const said of createInterface({ input: process.stdin })) {
  await daemon.request("session.add_turn", { ...call, turn: { role: "user", content: said, duration_ms: 900 } });
  console.log("acknowledged", said);
}
clearInterval(beating);
await daemon.request("session.end", { ...call, reason: "caller_hangup" });
daemon.connection?.destroy();
