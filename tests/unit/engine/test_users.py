"""The user that created a session is kept beside it, wherever the session goes."""

from __future__ import annotations

from callstate_client.engine.interfaces import InternalCaller
from callstate_client.engine.sessions.stored import StoredMeta
from callstate_client.engine.user import UNKNOWN, User
from callstate_sidecar.stores.redis.layout import meta_changes, meta_fields, parse_meta
from support.core import HOST, Core
from support.patches import a_patch


class Caller(InternalCaller):
    """A connection of a user."""

    def __init__(self, uid: int, gid: int = UNKNOWN) -> None:
        self.user = User(uid, gid)


def creator(core: Core, session_id: str) -> tuple[int, int]:
    facts = core.session(session_id).facts
    return facts.uid, facts.gid


async def test_a_session_is_its_creators_whoever_changes_it() -> None:
    core = Core()
    core.caller = Caller(1001, 100)
    await core.save("a")
    core.caller = Caller(1002)
    await core.save("a")
    await core.turn("a")
    await core.call("session.claim", session_id="a", worker_id="w2")
    assert creator(core, "a") == (1001, 100)


async def test_a_restart_keeps_it() -> None:
    core = Core()
    core.caller = Caller(1001, 100)
    await core.save("a")
    await core.turn("a")
    facts = core.replayed().sessions["a"].facts
    assert (facts.uid, facts.gid) == (1001, 100)


async def test_the_store_keeps_it_and_gives_it_back() -> None:
    core = Core()
    core.caller = Caller(1001, 100)
    await core.save("a")
    await core.writer.write_round()
    meta = core.memory.rows["a"].meta
    assert meta is not None
    assert (meta.uid, meta.gid) == (1001, 100)
    other = Core()
    other.memory.put("a", b'{"id":"a","status":"active"}', meta)
    await other.call("session.claim", session_id="a", worker_id="w1")
    assert creator(other, "a") == (1001, 100)


async def test_a_new_call_under_an_ended_ones_id_is_its_own_creators() -> None:
    core = Core()
    core.caller = Caller(1001)
    await core.save("a")
    await core.call("session.end", session_id="a")
    core.caller = Caller(1002)
    await core.save("a", if_version=core.session("a").version)
    assert creator(core, "a") == (1002, UNKNOWN)


async def test_a_session_of_nobody_is_its_first_claimers() -> None:
    core = Core()
    core.memory.put("a", b'{"id":"a","status":"active"}', StoredMeta(host=HOST, version=5))
    core.caller = Caller(1001, 100)
    await core.turn("a")
    assert creator(core, "a") == (UNKNOWN, UNKNOWN)
    await core.call("session.claim", session_id="a", worker_id="w1")
    assert creator(core, "a") == (1001, 100)


def test_redis_has_it_as_text_and_nothing_for_nobody() -> None:
    known, unknown = StoredMeta(version=1, uid=0, gid=4_000_000_000), StoredMeta(version=1)
    assert parsed(known) == (0, 4_000_000_000)
    assert parsed(unknown) == (UNKNOWN, UNKNOWN)
    assert meta_changes(a_patch(known, b"{}", known)) == [0]
    assert meta_changes(a_patch(unknown, b"{}", known)) == [0, b"uid", "0", b"gid", "4000000000"]


def parsed(meta: StoredMeta) -> tuple[int, int]:
    words = meta_fields(meta, deleted=False)
    encoded = [word if isinstance(word, bytes) else word.encode() for word in words]
    fields = dict(zip(encoded[::2], encoded[1::2], strict=True))
    found = parse_meta(fields | {b"version": b"1"})
    assert found is not None
    return found.uid, found.gid


def test_an_id_that_no_daemon_wrote_is_nobodys() -> None:
    for text in (b"", b"-1", b"4294967295", b"root"):
        found = parse_meta({b"version": b"1", b"uid": text, b"gid": text})
        assert found is not None
        assert (found.uid, found.gid) == (UNKNOWN, UNKNOWN)
