"""What a patch changes of a session's meta in Redis, against writing all of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from callstate_client.engine.sessions.ops import KEPT_OPS
from callstate_client.engine.sessions.store_form import write_of
from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.sessions.writes import Patch
from callstate_sidecar.stores.redis import layout
from callstate_sidecar.stores.redis.layout import meta_changes, meta_fields, parse_meta
from support.patches import a_patch
from support.table_harness import new_session


def hash_of(meta: StoredMeta) -> dict[bytes, bytes]:
    """The meta hash after a whole document was written."""
    words = [word.encode() if isinstance(word, str) else word for word in meta_fields(meta, deleted=False)]
    return dict(zip(words[::2], words[1::2], strict=True)) | beside(meta)


def beside(meta: StoredMeta) -> dict[bytes, bytes]:
    """What the scripts set themselves."""
    return {b"host": b"here", b"epoch": b"%d" % meta.epoch, b"version": b"%d" % meta.version}


def kept(ops: dict[str, bytes], new: list[str], version: int) -> dict[str, bytes]:
    """The kept results with some more, as a session keeps them."""
    ops = ops | {op: b'{"version":%d}' % (version + at) for at, op in enumerate(new) if op not in ops}
    return dict([*ops.items()][-KEPT_OPS:])


names = st.lists(st.integers(0, 60).map("op-{}".format), max_size=20)


@given(st.lists(names, max_size=6), st.booleans())
def test_patched_meta_is_read_as_if_it_had_been_written_whole(rounds: list[list[str]], suspect: bool) -> None:
    version = 1_767_225_600_000_000
    meta = StoredMeta(host="here", version=version, owner="w1", state="live", labels={"app": "sales"})
    fields = hash_of(meta)
    for new in rounds:
        version += 1000
        state = "suspect" if suspect else "live"
        after = structs.replace(meta, version=version, ops=kept({**meta.ops}, new, version), state=state)
        count, *names = meta_changes(a_patch(meta, b"{}", after))
        for name in names[:count]:
            del fields[name]
        words = [word.encode() if isinstance(word, str) else word for word in names[count:]]
        fields |= dict(zip(words[::2], words[1::2], strict=True)) | beside(after)
        meta = after
        parsed = parse_meta(fields)
        assert parsed == structs.replace(meta, host="here")
        assert [*parsed.ops.items()] == [*meta.ops.items()], "oldest first"


def test_a_result_more_is_one_field_more_and_one_less() -> None:
    ops = kept({}, [f"op-{number}" for number in range(KEPT_OPS)], 1)
    base = StoredMeta(host="here", version=100, ops=ops)
    meta = StoredMeta(host="here", version=200, ops=kept(ops, ["new"], 200))
    assert meta_changes(a_patch(base, b"{}", meta)) == [1, b"op:op-0", b"op:new", b'215 {"version":200}']


def test_after_a_turn_only_its_result_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most writes are of turns: what else is kept beside the document is neither made nor compared."""
    session = new_session("a")
    session.in_store = write_of(session, "here").result
    session.keep_op("op-1", b"{}")
    patch = write_of(session, "here")
    assert isinstance(patch, Patch)
    monkeypatch.setattr(layout, "meta_of", lambda *_: pytest.fail("all of meta"))
    assert meta_changes(patch) == [0, b"op:op-1", b"0 {}"]


def test_a_change_of_the_facts_or_the_state_is_found() -> None:
    session = new_session("a")
    session.in_store = write_of(session, "here").result
    session.suspected = "silent"
    patch = write_of(session, "here")
    assert isinstance(patch, Patch)
    assert meta_changes(patch) == [0, b"state", "suspect"]
    session.change_facts(owner="w1")
    patch = write_of(session, "here")
    assert isinstance(patch, Patch)
    assert meta_changes(patch) == [0, b"owner", "w1", b"state", "suspect"]
