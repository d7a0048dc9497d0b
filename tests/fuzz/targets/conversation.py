"""What a client sends over one connection of a daemon's core: lines to replies, with everything in between.

Input: the bytes of a connection. Every line with an id gets exactly one reply, none is an internal error, the
connection stays; what is kept afterwards is JSON that Go reads, and a restart from the journal restores it.
The same lines to a second core, which parses whole lines that the first one cuts (save_delta.py), have the same
effect.
"""

from __future__ import annotations

import asyncio
import atexit
import json
from collections import Counter
from functools import cache
from typing import Any
from unittest.mock import patch

from callstate_client.errors import InternalError
from callstate_client.protocol.ids import MAX_TEXT_BYTES
from callstate_sidecar.config.schema import LimitsConfig
from callstate_sidecar.serving import server as serving
from fuzz import reference
from fuzz.connection import LogInMemory, Peer, settled, untimed
from support.core import Core, durable_state
from support.go_reader import read_as_go

LINE_BYTES = 4096
SESSIONS = (
    b'{"jsonrpc":"2.0","id":-1,"method":"session.save","params":{"session":{"id":"c1","status":"active",'
    b'"history":[{"role":"user","content":"hello"},{"role":"agent","content":"good day"}]}}}\n'
    b'{"jsonrpc":"2.0","id":-2,"method":"session.save","params":{"session":{"id":"c2","status":"ended"}}}\n'
)
NEVER = 1 << 30
MEASURED = ("started_at", "long_turns", "gc")
"""Members of results that the core's clock does not decide."""

MEMBERS = {"jsonrpc", "id", "method", "params"}

NO_REPLY = ""
SILENCE = {NO_REPLY, "null"}


def check(data: bytes) -> None:
    """Send the bytes to both cores."""
    _loop().run_until_complete(_talk(data))


async def _talk(data: bytes) -> None:
    cut = await _outcome(data, min_bytes=0)
    if b"session.save" not in data:
        return
    whole = await _outcome(data, min_bytes=NEVER)
    assert cut[0] == whole[0], "the replies depend on how a save is decoded"
    assert cut[1] == whole[1], "what is kept depends on how a save is decoded"


async def _outcome(data: bytes, *, min_bytes: int) -> tuple[list[Any], Any]:
    """The replies, and what is kept."""
    log = LogInMemory()
    core = Core(journal=log, limits=LimitsConfig(line_bytes=LINE_BYTES))  # type: ignore[arg-type]
    peer = Peer(core)
    with untimed(), patch.object(serving, "MIN_BYTES", min_bytes):
        peer.connection.data_received(SESSIONS)
        await settled(core)
        peer.replies.clear()
        peer.connection.data_received(data)
        await settled(core)
    _check_replies(data, peer)
    for reply in peer.replies:
        if isinstance(reply.get("result"), dict):
            for name in MEASURED:
                reply["result"].pop(name, None)
    state = durable_state(core.table)
    assert durable_state(log.replayed()) == state, "a restart restores something else"
    for session in state.values():
        reference.read(session["document"])
        read_as_go(session["document"])
    await core.read_through.close()
    return peer.replies, state


def _check_replies(data: bytes, peer: Peer) -> None:
    assert not peer.closed, "the connection is closed"
    expected = [ids for line in data.split(b"\n")[:-1] if (ids := _reply_ids(line))]
    found = Counter(json.dumps(reply["id"]) for reply in peer.replies)
    found.subtract(next(iter(ids)) for ids in expected if len(ids) == 1)
    for ids in sorted((ids for ids in expected if len(ids) > 1), key=SILENCE.__eq__):
        # What is left of an id of its own is the reply to such a line, and each may have been answered with null.
        found[max(ids, key=lambda each: (found[each] > 0, each != "null"))] -= 1
    del found[NO_REPLY]
    assert not any(found.values()), "there is one reply to each line"
    for reply in peer.replies:
        assert reply.keys() in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
        assert "result" in reply or reply["error"]["code"] != InternalError.code, reply


def _reply_ids(line: bytes) -> set[str]:
    """The id that the reply to a line has, as JSON; none if there is no reply, and two where either will do.
    NO_REPLY is no reply, as one of the two."""
    if len(line) >= LINE_BYTES:
        return {"null"}
    if not line.strip(b" \t\r\v\f"):
        return set()
    try:
        value = reference.read(line)
    except (reference.NotJson, reference.TooDeep):
        return {"null"}
    if not isinstance(value, dict):
        return {"null"}
    passes, names = reference.passes_limits(line), reference.names(line)
    given = value.get("id")
    is_request = value.get("jsonrpc") == "2.0" and isinstance(value.get("method"), str) and value.keys() <= MEMBERS
    # Where a limit is passed decides whether the id is read; of several members of a name, a wrong one or the last
    # one decides.
    if "id" not in value:
        if not passes or len({*names}) < len(names):
            return SILENCE
        return set() if is_request else {"null"}
    if not passes or names.count("id") > 1:
        return {"null", json.dumps(given)}
    if isinstance(given, bool | dict | list) or (isinstance(given, str) and len(given) > MAX_TEXT_BYTES):
        return {"null"}
    return {json.dumps(given)}


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all inputs of the process."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop
