"""Saves that repeat what is kept: what is cut out of the line, and that nothing else comes of it."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.interfaces import INTERNAL, NotCached
from callstate_client.engine.request import BadRequest, DecodedRequest, read_long_request, read_request
from callstate_client.engine.verbs.save_delta import Extending
from callstate_client.errors import WireError
from support.core import BadDisk, Core, FakeClient, kept, off_loop, open_journal

TURN = b'{"role":"user","content":"%b","timestamp":"2026-01-01T00:00:00Z","duration_ms":1}'
TURNS = [TURN % (b"%d" % number * 60) for number in range(3)]
NEW = TURN % b"new"
KEPT = b",".join(TURNS)
HEAD = b'"id":"a","provider":"twilio","status":"active"'


def line(session: bytes, beside: bytes = b"") -> bytes:
    """A save as the client writes it."""
    return b'{"jsonrpc":"2.0","id":7,"method":"session.save","params":{"session":{%b}%b}}' % (session, beside)


def with_history(history: bytes, head: bytes = HEAD) -> bytes:
    """A save of this history."""
    return line(b'%b,"history":[%b],"metrics":{"turn_count":3}' % (head, history))


async def core_with_turns(chunks: list[bytes]) -> Core:
    """A core that keeps the three turns, in these chunks."""
    core = Core()
    await core.save("a", session={"history": []})
    session = core.session("a")
    for chunk in chunks:
        session.doc.append(chunk, chunk.count(b'"role"'))
    return core


def outcome(core: Core, asked: DecodedRequest | None) -> Any:
    """What a request gives, and what it leaves behind."""
    assert asked is not None
    try:
        result: Any = asked.verb.run(core.ctx, INTERNAL, asked.params)
    except WireError as error:
        result = (error.kind, error.message, error.data)
    except NotCached as miss:
        result = miss.session_id
    left = kept(core.session("a"))
    records = [(record.mode, record.turns, record.count) for record in core.tx.records]  # type: ignore[union-attr]
    core.commit()
    return result, left, records


CUT = {
    "the same": with_history(KEPT),
    "one more": with_history(KEPT + b"," + NEW),
    "two more": with_history(KEPT + b"," + NEW + b" ,\n" + NEW),
    "not ASCII": with_history(KEPT + b"," + TURN % "grüß dich".encode()),
    "beside": line(b'%b,"history":[%b]' % (HEAD, KEPT), b',"labels":{"a":"b"},"op":"x"'),
    "the name in a text": with_history(KEPT, HEAD + rb',"call_id":"\"history\":["'),
}

WHOLE = {
    "another beginning": with_history(NEW + b"," + KEPT),
    "a turn less": with_history(b",".join(TURNS[:2])),
    "the last turn longer": with_history(KEPT[:-1] + b',"x":1}'),
    "no comma behind": with_history(KEPT + NEW),
    "a bad turn behind": with_history(KEPT + b',{"role":5}'),
    "a number behind": with_history(KEPT + b",5"),
    "a comma behind": with_history(KEPT + b","),
    "a bad time behind": with_history(KEPT + b"," + NEW.replace(b"T00", b" 00")),
    "bad UTF-8 behind": with_history(KEPT + b"," + TURN % b"\xff"),
    "a surrogate behind": with_history(KEPT + b"," + TURN % rb"\ud800"),
    "none": line(HEAD),
    "empty": with_history(b""),
    "another's history first": line(
        b'%b,"recovery_data":{"history":[%b]},"history":[%b]' % (HEAD, KEPT, KEPT + b"," + NEW)
    ),
    "another's history last": line(b'%b,"history":[%b],"recovery_data":{"history":[%b]}' % (HEAD, KEPT, KEPT)),
    "another's, and a mark": line(rb'%b,"recovery_data":{"history":[%b]},"histor\u0079":[0]' % (HEAD, KEPT)),
    "another's, and a mark spelled with spaces": line(
        b'%b,"recovery_data":{"history":[%b]},"history" :[0,%b]' % (HEAD, KEPT, NEW)
    ),
    "another's, and a mark spelled with a line": line(
        b'%b,"recovery_data":{"history":[%b]},"history":\n[0]' % (HEAD, KEPT)
    ),
    "another's, behind a mark": line(b'%b,"history" : [0],"recovery_data":{"history":[%b]}' % (HEAD, KEPT)),
    "twice, first with spaces": line(b'%b,"history" :[0],"history":[%b]' % (HEAD, KEPT)),
    "twice, last with spaces": line(b'%b,"history":[%b],"history" :[0]' % (HEAD, KEPT)),
    "another's alone": line(b'%b,"recovery_data":{"history":[%b]}' % (HEAD, KEPT)),
    "a name that ends alike": line(b'%b,"recovery_data":{"prehistory":[%b]},"history":[%b]' % (HEAD, KEPT, KEPT)),
    "a mark": with_history(b"0"),
    "a mark and a turn": with_history(b"0," + NEW + b" " * 1000),
    "spaces": with_history(KEPT).replace(b'"history":', b'"history" :'),
    "unknown members": with_history(KEPT, HEAD + b',"campaign":"x"'),
    "unknown session": with_history(KEPT, HEAD.replace(b'"id":"a"', b'"id":"b"')),
}


@pytest.mark.parametrize("chunks", [[KEPT], TURNS, [TURNS[0], b",".join(TURNS[1:])]], ids=["one", "three", "two"])
@pytest.mark.parametrize("text", [*CUT.values(), *WHOLE.values()], ids=[*CUT, *WHOLE])
async def test_a_save_comes_to_the_same_with_and_without_the_cut(text: bytes, chunks: list[bytes]) -> None:
    outcomes = []
    for read in (lambda core: read_long_request(text, core.table), lambda _: read_request(text)):
        core = await core_with_turns(chunks)
        try:
            outcomes.append(outcome(core, read(core)))
        except BadRequest as refused:
            outcomes.append((refused.request_id, refused.error.kind, refused.error.message))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("text", CUT.values(), ids=CUT)
async def test_a_repeated_prefix_is_not_decoded(text: bytes) -> None:
    asked = read_long_request(text, (await core_with_turns(TURNS)).table)
    assert asked is not None
    assert isinstance(asked.params, Extending)


@pytest.mark.parametrize("name", [name for name in WHOLE if name.startswith(("another's", "twice"))])
async def test_text_that_only_resembles_the_history_is_not_cut(name: str) -> None:
    core = await core_with_turns(TURNS)
    try:
        asked = read_long_request(WHOLE[name], core.table)
    except BadRequest:
        return
    assert asked is not None
    assert not isinstance(asked.params, Extending)


async def test_an_error_names_the_place_in_the_whole_history() -> None:
    core = await core_with_turns(TURNS)
    asked = read_long_request(WHOLE["a bad turn behind"], core.table)
    (_, message, data), _, _ = outcome(core, asked)
    assert data["path"] == "$.params.session.history[3].role"
    assert "history[3]" in message


async def test_a_save_that_saw_undone_changes_is_decoded_again(tmp_path: Path) -> None:
    """The turn it repeats is taken back with its group: it is judged by what is kept then."""
    disk = BadDisk()
    journal = open_journal(tmp_path, disk, None, start=True)
    core = Core(journal=journal)
    peer = FakeClient(core)
    # as long as what the daemon cuts
    session = {"id": "a", "history": [{"role": "user", "content": "x" * 2000, "timestamp": "2026-01-01T00:00:00Z"}]}
    first = peer.send(("session.save", {"session": session}))
    while not peer.answered(first):
        await asyncio.sleep(0)
    turn = {"role": "agent", "content": "y", "timestamp": "2026-01-01T00:00:01Z"}
    longer = session | {"history": [*session["history"], turn]}
    disk.error, disk.once = OSError(errno.ENOSPC, "full"), 1
    ids = peer.send(
        ("session.add_turn", {"session_id": "a", "turn": turn}),
        ("session.save", {"session": longer, "if_version": 1}),  # refused, so it only saw the turn
    )
    while not peer.answered(ids):
        await asyncio.sleep(0)
    kinds = [peer.replies[request_id]["error"]["data"]["kind"] for request_id in ids]
    assert kinds == ["not_durable", "conflict"]
    assert core.session("a").doc.turn_count == 1
    off_loop(journal.close)
