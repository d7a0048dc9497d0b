"""Any byte stream in any pieces gets the same replies, whatever its lines are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from callstate_sidecar.config.schema import LimitsConfig
from fuzz.connection import LogInMemory, Peer, settled, untimed
from support.budget import examples
from support.core import Core, durable_state

LINE_BYTES = 4096

IDS = st.none() | st.integers(-5, 2**63 - 1) | st.text(max_size=5) | st.sampled_from([1.5, True, [], {}])
SESSION_IDS = st.sampled_from(["c1", "c2", "nobody", ""])
TURN = {"role": "user", "content": "hello"}
PARAMS = st.sampled_from(["session.load", "session.end", "session.record_interruption"]).flatmap(
    lambda method: st.tuples(st.just(method), st.fixed_dictionaries({"session_id": SESSION_IDS}))
) | st.sampled_from(
    [
        ("session.save", {"session": {"id": "c1", "status": "active", "history": [TURN]}}),
        ("session.save", {"session": {"id": "c2", "recovery_data": {"text": "x" * 5000}}}),
        ("session.add_turn", {"session_id": "c1", "turn": TURN, "op": "o1"}),
        ("session.update", {"session_id": "c1", "set": {"note": "é"}}),
        ("session.heartbeat", {"session_ids": ["c1", "c2", "nobody"]}),
        ("session.list_active", {}),
        ("worker.register", {"worker_id": "w1"}),
        ("session.claim_next", {"worker_id": "w1"}),
        ("session.list", {"status": "active"}),
        ("no.such", {}),
    ]
)


@st.composite
def request(draw: st.DrawFn) -> bytes:
    """A request, or a notification."""
    method, params = draw(PARAMS)
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if draw(st.integers(0, 9)):
        message["id"] = draw(IDS)
    return json.dumps(message, ensure_ascii=draw(st.booleans())).encode()


LINE = st.one_of(
    request(),
    request(),
    request().flatmap(lambda line: st.integers(0, len(line)).map(lambda end: line[:end])),
    st.lists(request(), min_size=1, max_size=3).map(lambda batch: b"[%b]" % b",".join(batch)),
    st.binary(max_size=20).map(lambda junk: junk.replace(b"\n", b"")),
    st.sampled_from(
        [b"", b"  ", b"\r", b"\xef\xbb\xbf{}", b"x" * (LINE_BYTES - 1), b"x" * LINE_BYTES, b"y" * 9000]
    ),
)
STREAM = st.tuples(st.lists(LINE, max_size=12), LINE | st.just(b"")).map(
    lambda parts: b"".join(line + b"\n" for line in parts[0]) + parts[1]
)


# All ids are known, and none is deleted, so that nothing waits for the store: what waits may be answered after what
# was sent later.
KNOWN = (
    b'{"jsonrpc":"2.0","id":0,"method":"session.load","params":{"session_id":"nobody"}}\n'
    b'{"jsonrpc":"2.0","id":1,"method":"session.save","params":{"session":{"id":"c1","status":"active"},"if_version":0}}\n'
    b'{"jsonrpc":"2.0","id":2,"method":"session.save","params":{"session":{"id":"c2"},"if_version":0}}\n'
)


async def outcome(pieces: Sequence[bytes]) -> tuple[list[Any], Any]:
    """The replies to a stream in these pieces, and what is kept; then the client goes, perhaps in a line."""
    log = LogInMemory()
    core = Core(journal=log, limits=LimitsConfig(line_bytes=LINE_BYTES))  # type: ignore[arg-type]
    peer = Peer(core)
    with untimed():
        peer.connection.data_received(KNOWN)
        await settled(core)
        for piece in pieces:
            peer.connection.data_received(piece)
            await settled(core)
        replies, kept = [*peer.replies], durable_state(core.table)
        peer.connection.connection_lost(None)
        await settled(core)
    assert peer.replies == replies, "half a line is answered"
    assert durable_state(core.table) == kept, "half a line has an effect"
    assert durable_state(log.replayed()) == kept
    assert not peer.closed
    await core.read_through.close()
    return replies, kept


@settings(max_examples=examples(60))
@given(stream=STREAM, cuts=st.lists(st.floats(0, 1), max_size=8))
async def test_any_stream_in_any_pieces_gets_the_same_replies(stream: bytes, cuts: list[float]) -> None:
    edges = sorted({0, len(stream), *(int(cut * len(stream)) for cut in cuts)})
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    lines = [line + b"\n" for line in stream.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    by_line = await outcome([line for line in lines if line])
    assert await outcome(pieces) == by_line
    if len(stream) < 600:
        assert await outcome([stream[at : at + 1] for at in range(len(stream))]) == by_line
