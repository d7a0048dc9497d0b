"""What the daemon's writer relies on, in Redis and in SQLite alike."""

from __future__ import annotations

import itertools
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import structs
from redis.asyncio import Redis

from callstate_client.engine.sessions.stored import Query, StoredMeta, StoredSession
from callstate_client.engine.sessions.writes import Patch, Whole, Write
from callstate_client.model import SessionState
from callstate_client.model.times import format_time
from callstate_sidecar.stores.backend import TOGETHER_BYTES, Backend, Deviation, StoredVersion, WriteOutcome
from callstate_sidecar.stores.document_store import DocumentStore
from callstate_sidecar.stores.redis import RedisBackend, RedisStore
from callstate_sidecar.stores.sqlite import SqliteBackend, SqliteStore
from support.documents import GO_DOCUMENTS, go_document
from support.patches import a_patch
from support.redis_server import RedisServer
from support.stores import all_active, all_found

BIG = 2**63 - 1
DOCUMENT = b'{"id":"call-1","status":"active"}'


@dataclass
class Side:
    """A backend, the store of the same keys or file for everybody else, and bare hands."""

    backend: Backend
    store: DocumentStore
    put_raw: Callable[[str, bytes], Awaitable[None]]
    expire: Callable[[str], Awaitable[None]]


async def redis_side(server: RedisServer) -> AsyncIterator[Side]:
    prefix = f"{uuid.uuid4()}:"
    backend = RedisBackend(server.url, prefix=prefix, ttl_s=1000, timeout_s=5, host_id="here")
    store = RedisStore.from_url(server.url, prefix=prefix)
    async with Redis.from_url(server.url, protocol=2) as raw:

        async def put_raw(session_id: str, document: bytes) -> None:
            await raw.set(prefix + session_id, document, ex=1000)
            await raw.sadd(prefix + "active", session_id)

        async def expire(session_id: str) -> None:
            await raw.pexpireat(prefix + session_id, 1)
            await raw.pexpireat(f"{{{prefix}{session_id}}}:meta", 1)

        yield Side(backend, store, put_raw, expire)
    await backend.close()
    await store.close()


async def sqlite_side(path: Path) -> AsyncIterator[Side]:
    backend = SqliteBackend(path, ttl_s=1000, host_id="here")
    store = SqliteStore(path)
    await store.ping()

    keys = itertools.count(77)

    def execute(statement: str, *values: object) -> None:
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(statement, values)
        connection.close()

    async def put_raw(session_id: str, document: bytes) -> None:
        key = next(keys)
        execute("INSERT INTO session (key, id, active, expires_ms) VALUES (?, ?, 1, 1 << 62)", key, session_id)
        execute("INSERT INTO document VALUES (?, ?)", key, document)

    async def expire(session_id: str) -> None:
        execute("UPDATE session SET expires_ms = 1 WHERE id = ?", session_id)

    yield Side(backend, store, put_raw, expire)
    await backend.close()
    await store.close()


@pytest.fixture(params=["redis", "sqlite"])
async def side(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Side]:
    sides = redis_side(redis_server) if request.param == "redis" else sqlite_side(tmp_path / "sessions.db")
    async for one in sides:
        yield one


def a_write(session_id: str = "call-1", document: bytes | None = DOCUMENT, **fields: object) -> Whole:
    active = bool(fields.pop("active", document is not None))
    beat_ms = fields.pop("beat_ms", 0)
    meta = StoredMeta(**({"host": "here", "epoch": 1, "version": 1} | fields))  # type: ignore[arg-type]
    return Whole(session_id, document, meta, active=active, beat_ms=beat_ms)  # type: ignore[arg-type]


async def outcome(side: Side, write: Write) -> WriteOutcome:
    (result,) = await side.backend.write([write])
    return result.outcome


async def there(side: Side, session_id: str = "call-1") -> StoredSession:
    stored = await side.backend.read(session_id)
    assert stored is not None
    return stored


async def test_several_are_read_at_once_as_each_by_itself(side: Side) -> None:
    names = ["call-1", "deleted", "gone", "go", "absent"]
    await side.backend.write([a_write(), a_write("deleted"), a_write("gone")])
    await side.backend.write([a_write("deleted", None, version=2)])
    await side.store.delete("gone")
    await side.put_raw("go", DOCUMENT.replace(b"call-1", b"go"))
    together = await side.backend.read_each(names)
    assert together == [await side.backend.read(name) for name in names]
    assert [each is not None for each in together] == [True, True, False, True, False]


async def test_big_documents_beside_small_ones(side: Side) -> None:
    """The big one leaves in pieces, in its place among the others."""
    big = b'{"id":"big","status":"active","note":"%b"}' % (b"\xc3\xa4" * 1_000_000)
    batch = [a_write("first"), a_write("big", big), a_write("last")]
    assert [result.outcome for result in await side.backend.write(batch)] == [WriteOutcome.WRITTEN] * 3
    assert (await there(side, "big")).document == big
    for name in ("first", "last"):
        assert (await there(side, name)).document == DOCUMENT


FENCING = [
    # held (host, epoch, version), new, taken
    (("here", 1, 5), ("here", 1, 6), True),
    (("here", 1, 5), ("here", 1, 5), True),  # a repeat, whose reply was lost
    (("here", 1, 5), ("here", 1, 4), False),
    (("here", 1, 5), ("there", 2, 1), True),
    (("here", 2, 1), ("here", 1, 9), False),
    (("here", 1, 5), ("there", 1, 6), False),  # same epoch, another host: nobody handed it over
    (("here", 1, 5), ("there", 1, 5), False),
    (("here", 1, 9), ("here", 1, 10), True),  # text that sorts the other way round
    (("here", 1, 10), ("here", 1, 9), False),
    (("here", 9, 1), ("there", 10, 1), True),
    (("here", 10, 1), ("there", 9, 1), False),
    (("here", 1, 2**53), ("here", 1, 2**53 + 1), True),  # equal as doubles
    (("here", 1, 2**53 + 1), ("here", 1, 2**53), False),
    (("here", 1, BIG - 1), ("here", 1, BIG), True),
    (("here", 1, BIG), ("here", 1, BIG - 1), False),
    (("here", BIG - 1, 1), ("there", BIG, 1), True),
    (("here", BIG, 1), ("there", BIG - 1, BIG), False),
    (("here", 0, 0), ("here", 0, 1), True),
    (("here", 0, 0), ("here", 0, 0), True),
]


@pytest.mark.parametrize(("held", "new", "taken"), FENCING)
@pytest.mark.parametrize("tombstone", [False, True], ids=["document", "tombstone"])
async def test_who_may_overwrite_whom(
    side: Side, held: tuple[str, int, int], new: tuple[str, int, int], taken: bool, tombstone: bool
) -> None:
    first = dict(zip(("host", "epoch", "version"), held, strict=True))
    second = dict(zip(("host", "epoch", "version"), new, strict=True))
    assert await outcome(side, a_write(document=None if tombstone else b"1", **first)) is WriteOutcome.WRITTEN
    (result,) = await side.backend.write([a_write(document=b"2", **second)])
    stored = await there(side)
    assert stored.meta is not None
    if taken:
        assert result.outcome is WriteOutcome.WRITTEN
        assert (stored.document, stored.meta.version) == (b"2", new[2])
        assert (stored.meta.host, stored.meta.epoch, stored.meta.deleted) == (new[0], new[1], False)
    else:
        assert result.outcome is WriteOutcome.SUPERSEDED
        assert (stored.document, stored.meta.version) == (None if tombstone else b"1", held[2])
        assert f"version {held[2]} of host {held[0]}" in result.detail
        assert await all_active(side.backend) == ([] if tombstone else ["call-1"])


async def test_all_of_meta_comes_back(side: Side) -> None:
    meta = StoredMeta(
        host="there",
        epoch=2**20 + 3,
        version=BIG,
        owner="worker-ü",
        ended_reason="caller_hangup",
        ended_detail='{"cause":16}',
        ended_at="2024-05-01T10:00:00.5Z",
        labels={"app": "sales", "größe": "{}\n"},
        heartbeat_timeout_s=12.5,
        max_duration_s=3600.0,
        reaped=True,
        status_before="on_hold",
        ops={"op-1": b'{"version":1}', "op-ü": b'{"version":2,"turn_count":1}'},
    )
    document = bytes(range(256)) * 10
    await side.backend.write([Whole("call-1", document, meta, active=True, beat_ms=1_700_000_000_123)])
    assert await there(side) == StoredSession(document, meta, 1_700_000_000_123)


async def test_meta_that_is_empty_comes_back_empty(side: Side) -> None:
    await side.backend.write([Whole("call-1", DOCUMENT, StoredMeta(), active=True)])
    assert (await there(side)).meta == StoredMeta(host="here")
    # nothing of an earlier write stays behind
    full = a_write(
        owner="w",
        ended_reason="r",
        ended_detail="{}",
        reaped=True,
        status_before="on_hold",
        labels={"a": "b"},
        heartbeat_timeout_s=1.0,
        ops={"op": b"{}"},
        version=2,
    )
    await side.backend.write([full])
    await side.backend.write([a_write(version=3)])
    assert (await there(side)).meta == StoredMeta(host="here", epoch=1, version=3)


async def test_an_unknown_id_has_no_document(side: Side) -> None:
    assert await side.backend.read("nobody") is None
    assert await all_active(side.backend) == []
    assert await side.backend.write([]) == []
    await side.backend.write_beats({})


async def test_a_deletion_leaves_a_tombstone_that_holds_off_the_past(side: Side) -> None:
    await side.backend.write([a_write(version=5, beat_ms=7)])
    assert await outcome(side, a_write(document=None, version=6)) is WriteOutcome.WRITTEN
    stored = await there(side)
    assert (stored.document, stored.beat_ms) == (None, 0)
    assert stored.meta == StoredMeta(host="here", epoch=1, version=6, deleted=True)
    assert await all_active(side.backend) == []
    assert await outcome(side, a_write(version=5)) is WriteOutcome.SUPERSEDED
    assert await outcome(side, a_write(document=None, version=6)) is WriteOutcome.WRITTEN
    assert await outcome(side, a_write(version=7)) is WriteOutcome.WRITTEN
    assert (await there(side)).document == DOCUMENT


async def test_only_active_sessions_are_listed_and_have_beats(side: Side) -> None:
    await side.backend.write([a_write("call-1", beat_ms=5), a_write("call-2", beat_ms=5)])
    await side.backend.write([a_write("call-1", active=False, version=2, beat_ms=9)])
    assert await all_active(side.backend) == ["call-2"]
    await side.backend.write_beats({"call-1": 20, "call-2": 30, "nobody": 40})
    assert (await there(side, "call-1")).beat_ms == 0
    assert (await there(side, "call-2")).beat_ms == 30
    assert await side.backend.read("nobody") is None


async def test_a_beat_never_goes_back(side: Side) -> None:
    await side.backend.write([a_write(beat_ms=50)])
    await side.backend.write_beats({"call-1": 40})
    assert (await there(side)).beat_ms == 50
    await side.backend.write_beats({"call-1": 60})
    await side.backend.write([a_write(version=2, beat_ms=55)])
    assert (await there(side)).beat_ms == 60


async def test_thousands_of_beats_go_in_one_call(side: Side) -> None:
    ids = [f"call-{i}" for i in range(2500)]
    await side.backend.write([a_write(session_id) for session_id in ids])
    await side.backend.write_beats({session_id: 1000 + i for i, session_id in enumerate(ids)})
    assert (await there(side, "call-2499")).beat_ms == 3499
    assert sorted(await all_active(side.backend)) == sorted(ids)


async def test_a_batch_has_one_result_each_in_order(side: Side) -> None:
    await side.backend.write([a_write("call-2", version=9)])
    results = await side.backend.write(
        [a_write("call-1"), a_write("call-2"), a_write("call-3", document=None), a_write("call-1", version=2)]
    )
    assert [result.outcome for result in results] == [
        WriteOutcome.WRITTEN,
        WriteOutcome.SUPERSEDED,
        WriteOutcome.WRITTEN,
        WriteOutcome.WRITTEN,
    ]
    assert (await there(side, "call-1")).meta == StoredMeta(host="here", epoch=1, version=2)


@pytest.mark.parametrize("name", GO_DOCUMENTS)
async def test_documents_by_go_are_read_and_taken_over(side: Side, name: str) -> None:
    document = go_document(name)
    await side.put_raw("go-1", document)
    assert await there(side, "go-1") == StoredSession(document, None, 0)
    assert await all_active(side.backend) == ["go-1"]
    assert await side.store.load("go-1") == SessionState.from_json(document)
    assert await outcome(side, a_write("go-1", version=0, epoch=0)) is WriteOutcome.WRITTEN
    assert (await there(side, "go-1")).document == DOCUMENT


@pytest.mark.parametrize("name", GO_DOCUMENTS)
async def test_a_beat_beside_what_go_wrote_is_the_later_time(side: Side, name: str) -> None:
    await side.put_raw("go-1", go_document(name))
    await side.store.update_heartbeat("go-1")
    state = await side.store.load("go-1")
    stored = await there(side, "go-1")
    assert stored.document == go_document(name)
    assert state.updated_at.timestamp() * 1000 == pytest.approx(stored.beat_ms)


async def test_go_overwriting_a_document_leaves_meta_alone(side: Side) -> None:
    await side.backend.write([a_write("call-1", version=5, owner="w")])
    await side.store.save(SessionState("call-1", provider="go"))
    stored = await there(side)
    assert stored.meta == StoredMeta(host="here", epoch=1, version=5, owner="w")
    assert SessionState.from_json(stored.document or b"").provider == "go"
    assert await outcome(side, a_write(version=4)) is WriteOutcome.SUPERSEDED


async def test_a_document_written_over_a_tombstone_is_not_deleted(side: Side) -> None:
    await side.backend.write([a_write(document=None, version=5)])
    await side.store.save(SessionState("call-1", provider="go"))
    stored = await there(side)
    assert stored.meta == StoredMeta(host="here", epoch=1, version=5)
    assert stored.document is not None
    assert await all_active(side.backend) == ["call-1"]


async def test_the_store_knows_why_a_session_of_the_daemon_ended(side: Side) -> None:
    from callstate_client.errors import SessionEndedError

    ended = SessionState("call-1", status="ended").to_json()
    write = a_write(document=ended, active=False, ended_reason="worker_exited", ended_at="2024-05-01T10:00:00Z")
    await side.backend.write([write])
    with pytest.raises(SessionEndedError) as caught:
        await side.store.update_heartbeat("call-1")
    assert caught.value.reason == "worker_exited"
    assert caught.value.ended_at == "2024-05-01T10:00:00Z"


async def test_a_session_that_a_store_ended_was_over_with_its_last_save(side: Side) -> None:
    from callstate_client.errors import SessionEndedError

    state = SessionState("call-1", status="ended")
    await side.store.save(state)
    with pytest.raises(SessionEndedError) as caught:
        await side.store.update_heartbeat("call-1")
    assert caught.value.ended_at == format_time(state.updated_at)
    assert caught.value.reason is None


async def test_an_expired_document_takes_its_meta_along(side: Side) -> None:
    await side.backend.write([a_write("call-1", version=9, owner="w", beat_ms=99), a_write("call-2")])
    await side.expire("call-1")
    assert await all_active(side.backend) == ["call-2"]
    assert await side.backend.read("call-1") is None
    assert await outcome(side, a_write("call-1", version=1)) is WriteOutcome.WRITTEN
    assert await there(side) == StoredSession(DOCUMENT, StoredMeta(host="here", epoch=1, version=1), 0)


async def test_deleting_through_the_store_leaves_no_trace(side: Side) -> None:
    await side.backend.write([a_write(beat_ms=7)])
    await side.store.delete("call-1")
    assert await side.backend.read("call-1") is None
    assert await all_active(side.backend) == []


async def test_a_closed_backend_says_it_is_down_and_closes_twice(side: Side) -> None:
    from callstate_client.engine.sessions.stored import StoreDownError

    await side.backend.ping()
    await side.backend.close()
    await side.backend.close()
    with pytest.raises(StoreDownError):
        await side.backend.ping()
    with pytest.raises(StoreDownError):
        await side.backend.write([a_write()])
    with pytest.raises(StoreDownError):
        await side.backend.read("call-1")


UNSEEN = [
    # held (host, version) or Go's or nothing, new (host, version), seen, outcome
    (None, ("here", 1), 0, WriteOutcome.WRITTEN),
    (("here", 5), ("here", 6), 0, WriteOutcome.UNSEEN),
    (("there", 5), ("here", 6), 0, WriteOutcome.UNSEEN),
    ("go", ("here", 6), 0, WriteOutcome.UNSEEN),
    (("here", 5), ("here", 9), 4, WriteOutcome.UNSEEN),
    (("here", 5), ("here", 9), 5, WriteOutcome.WRITTEN),
    (("here", 5), ("here", 9), 6, WriteOutcome.WRITTEN),
    (("here", 5), ("here", 5), 4, WriteOutcome.WRITTEN),  # a repeat, whose reply was lost
    (("here", 2**53 + 1), ("here", 2**60), 2**53, WriteOutcome.UNSEEN),
    (("here", 10), ("here", 11), 9, WriteOutcome.UNSEEN),  # text that sorts the other way round
    (("there", 5), ("here", 9), 4, WriteOutcome.SUPERSEDED),
    (None, ("here", 9), 4, WriteOutcome.WRITTEN),
    ("go", ("here", 9), 4, WriteOutcome.WRITTEN),
]


@pytest.mark.parametrize(("held", "new", "seen", "expected"), UNSEEN)
@pytest.mark.parametrize("tombstone", [False, True])
async def test_a_write_does_not_replace_a_state_unknown_to_its_writer(
    side: Side,
    held: tuple[str, int] | str | None,
    new: tuple[str, int],
    seen: int,
    expected: WriteOutcome,
    tombstone: bool,
) -> None:
    if held == "go":
        await side.put_raw("call-1", b"theirs")
    elif isinstance(held, tuple):
        document = None if tombstone else b"theirs"
        await side.backend.write([a_write(document=document, host=held[0], version=held[1])])
    before = await side.backend.read("call-1")
    write = a_write(document=b"ours", host=new[0], version=new[1])
    write.seen = seen
    assert await outcome(side, write) is expected
    if expected is WriteOutcome.WRITTEN:
        assert (await there(side)).document == b"ours"
    else:
        assert await side.backend.read("call-1") == before


# -- looking for sessions ------------------------------------------------------------------------------------------


def a_document(session_id: str, status: str = "active", call_id: str = "") -> bytes:
    return SessionState(session_id, status=status, call_id=call_id).to_json()


async def put(side: Side, session_id: str, status: str = "active", call_id: str = "", **meta: object) -> None:
    document = a_document(session_id, status, call_id)
    write = a_write(session_id, document, active=status != "ended", **meta)
    write.call_id = call_id
    (result,) = await side.backend.write([write])
    assert result.outcome is WriteOutcome.WRITTEN


async def test_sessions_are_found_by_the_id_of_their_call(side: Side) -> None:
    await put(side, "a", "ended", "CA1")
    await put(side, "b", "active", "CA1", host="there")
    await put(side, "c", "active", "CA2")
    await put(side, "d")
    assert (await all_found(side.backend, Query(call_id="CA1"))).keys() == {"a", "b"}
    assert await all_found(side.backend, Query(call_id="CA3")) == {}
    await side.backend.write([a_write("a", None, version=2)])
    assert (await all_found(side.backend, Query(call_id="CA1"))).keys() == {"b"}, "deleted"
    await side.expire("b")
    assert await all_found(side.backend, Query(call_id="CA1")) == {}, "expired"


async def test_sessions_of_every_writer_are_found_by_call_id(side: Side) -> None:
    await side.store.save(SessionState("by-store", call_id="CA1"))
    assert (await all_found(side.backend, Query(call_id="CA1"))).keys() == {"by-store"}


async def test_a_search_gives_all_that_match_page_by_page(side: Side) -> None:
    for number in range(7):
        await put(side, f"live-{number}", owner="w1", labels={"app": "sales", "n": str(number)})
        end = {"ended_at": f"2026-01-0{number + 1}T00:00:00Z", "ended_reason": "completed"}
        await put(side, f"ended-{number}", "ended", owner="w2", labels={"app": "care"}, **end)
    await side.backend.write([a_write("gone", None)])
    live = {f"live-{number}" for number in range(7)}
    ended = {f"ended-{number}" for number in range(7)}
    assert (await all_found(side.backend, Query())).keys() == live | ended, "no tombstones"
    assert (await all_found(side.backend, Query(status="active"))).keys() >= live
    assert (await all_found(side.backend, Query(status="ended"))).keys() >= ended
    assert (await all_found(side.backend, Query(owner="w1"))).keys() >= live
    assert (await all_found(side.backend, Query(labels={"app": "sales", "n": "3"}))).keys() >= {"live-3"}
    await side.store.save(SessionState("ended-by-store", status="ended"))
    since = await all_found(side.backend, Query(ended_since="2026-01-06T00:00:00"))
    assert since.keys() >= {"ended-5", "ended-6", "ended-by-store"}


# -- patches -----------------------------------------------------------------------------------------------

OPENING = b'{"id":"call-1","status":"active"     ,"history":['
ON_HOLD = b'"on_hold"    '


def a_turn(base: StoredMeta, document: bytes, turn: bytes, *, head: bytes = b"", **fields: object) -> Patch:
    """A patch from the status on."""
    return a_patch(base, document, a_write(**fields).meta, turn, head=head, offset=OPENING.index(b'"active"'))


async def test_a_patch_changes_the_document_in_place(side: Side) -> None:
    document = OPENING + b"]}"
    first = a_write(document=document, ops={"op-1": b'{"version":1}', "op-2": b"{}"}, labels={"app": "sales"})
    assert await outcome(side, first) is WriteOutcome.WRITTEN
    ops = {"op-2": first.meta.ops["op-2"], "op-3": b"[3]"}
    turn = b'{"role":"user"}'
    second = a_turn(first.meta, document, turn, head=ON_HOLD, version=2, ops=ops, labels={"app": "x"})
    assert await outcome(side, second) is WriteOutcome.WRITTEN
    stored = await there(side)
    assert stored.document is not None
    assert json.loads(stored.document) == {"id": "call-1", "status": "on_hold", "history": [{"role": "user"}]}
    assert stored.meta is not None
    assert (stored.meta.version, stored.meta.labels) == (2, {"app": "x"})
    assert [*stored.meta.ops.items()] == [("op-2", b"{}"), ("op-3", b"[3]")]
    again = a_turn(second.meta, stored.document, b",{}", version=3, owner="w-1")
    assert await outcome(side, again) is WriteOutcome.WRITTEN
    stored = await there(side)
    assert stored.document is not None
    assert json.loads(stored.document)["history"] == [{"role": "user"}, {}]
    assert stored.meta is not None
    assert (stored.meta.owner, stored.meta.labels, [*stored.meta.ops]) == ("w-1", {}, [])


@pytest.mark.parametrize(
    "held",
    [
        None,
        {"version": 5},  # an older one of ours
        {"version": 7},  # a newer one of ours: the reply to it was lost
        {"version": 6, "host": "there"},
        {"version": 6, "epoch": 3},
        {"version": 6, "document": None},
    ],
)
async def test_a_patch_fits_only_what_it_was_made_for(side: Side, held: dict[str, object] | None) -> None:
    if held is not None:
        await side.backend.write([a_write(**({"document": OPENING + b"]}"} | held))])  # type: ignore[arg-type]
    before = await side.backend.read("call-1")
    base = StoredMeta(host="here", epoch=1, version=6)
    patch = a_turn(base, OPENING + b"]}", b"{}", version=8)
    assert await outcome(side, patch) in (WriteOutcome.NOT_BASE, WriteOutcome.SUPERSEDED)
    assert await side.backend.read("call-1") == before


async def test_patches_of_one_batch_have_outcomes_of_their_own(side: Side) -> None:
    """However many there are, and whatever is written whole between them."""
    document = OPENING + b"]}"
    names = [f"call-{number}" for number in range(80)]
    await side.backend.write([a_write(name, document, version=1 if name != "call-7" else 9) for name in names])
    base = StoredMeta(host="here", epoch=1, version=1)
    batch: list[Write] = [
        structs.replace(a_turn(base, document, b"{}", version=2), session_id=name) for name in names
    ]
    batch[40] = a_write("call-40", document, version=2)
    results = await side.backend.write(batch)
    outcomes = {name: result.outcome for name, result in zip(names, results, strict=True)}
    assert outcomes.pop("call-7") in (WriteOutcome.NOT_BASE, WriteOutcome.SUPERSEDED)
    assert {*outcomes.values()} == {WriteOutcome.WRITTEN}
    for name in names:
        stored = await there(side, name)
        assert stored.document == (document if name in ("call-7", "call-40") else OPENING + b"{}]}"), name


async def test_a_patch_is_not_made_in_a_document_of_other_software(side: Side) -> None:
    document = OPENING + b"]}"
    first = a_write(document=document)
    await side.backend.write([first])
    await side.store.save(SessionState("call-1", from_="+49"))
    theirs = await there(side)
    patch = a_turn(first.meta, document, b"{}", version=2)
    assert await outcome(side, patch) is WriteOutcome.NOT_BASE
    assert (await there(side)).document == theirs.document


async def test_foreign_changes_are_set_aside_and_replaced(side: Side) -> None:
    await side.backend.write([a_write()])
    await side.store.save(SessionState("call-1", from_="+49"))
    theirs = (await there(side)).document
    again = structs.replace(a_write(), is_new=False)
    assert await outcome(side, again) is WriteOutcome.UNSEEN
    assert (await there(side)).document == theirs
    (result,) = await side.backend.write([a_write(document=b'{"id":"call-1","from":"+1"}', version=2)])
    assert (result.outcome, result.set_aside) == (WriteOutcome.WRITTEN, True)
    assert (await there(side)).document == b'{"id":"call-1","from":"+1"}'
    (result,) = await side.backend.write([a_write(version=3)])
    assert not result.set_aside


async def test_foreign_changes_that_were_taken_are_not_set_aside(side: Side) -> None:
    await side.backend.write([a_write()])
    assert (await there(side)).foreign_stamp == b""
    await side.store.save(SessionState("call-1", from_="+49"))
    stamp = (await there(side)).foreign_stamp
    assert stamp
    write = structs.replace(a_write(version=2), seen_stamp=stamp)
    (result,) = await side.backend.write([write])
    assert (result.outcome, result.set_aside) == (WriteOutcome.WRITTEN, False)
    assert (await there(side)).foreign_stamp == b""


async def test_a_long_document_is_not_read_with_others_and_one_that_is_too_long_not_at_all(side: Side) -> None:
    long = b'{"id":"long","x":"%b"}' % (b"x" * TOGETHER_BYTES)
    await side.put_raw("long", long)
    await side.put_raw("short", b'{"id":"short"}')
    found, short = await side.backend.read_each(["long", "short"])
    assert isinstance(found, StoredSession)
    assert (found.document, found.unread_bytes) == (b"", len(long))
    assert isinstance(short, StoredSession)
    assert (short.document, short.unread_bytes) == (b'{"id":"short"}', 0)
    whole = await side.backend.read("long")
    assert whole is not None
    assert (whole.document, whole.unread_bytes) == (long, 0)
    side.backend._document_bytes = len(long) - 1  # type: ignore[attr-defined]
    unread = await side.backend.read("long")
    assert unread is not None
    assert (unread.document, unread.unread_bytes) == (b"", len(long))


async def test_a_patched_document_is_not_foreign_and_a_change_of_it_is(side: Side) -> None:
    document = OPENING + b"]}"
    first = a_write(document=document)
    await side.backend.write([first])
    patch = a_turn(first.meta, document, b'{"role":"user"}', head=ON_HOLD, version=2)
    await side.backend.write([patch])
    assert (await there(side)).foreign_stamp == b""
    state = await side.store.load("call-1")
    assert (state.status, len(state.history)) == ("on_hold", 1)
    await side.store.save(state)
    assert (await there(side)).foreign_stamp
    assert SessionState.from_json((await there(side)).document or b"") == state, "nothing of the patch is left"


async def deviation(side: Side, version: int = 1) -> Deviation | None:
    found = dict(await side.backend.check([StoredVersion("call-1", version, "", live=True)]))
    return found.get("call-1")


async def test_the_sweep_tells_what_others_did(side: Side) -> None:
    await side.backend.write([a_write()])
    assert await deviation(side) is None
    assert await deviation(side, 2) is Deviation.OTHER
    await side.store.save(SessionState("call-1", from_="+49"))
    assert await deviation(side) is Deviation.CHANGED
    await side.store.delete("call-1")
    assert await deviation(side) is Deviation.DELETED
    assert await outcome(side, a_write(version=2)) is WriteOutcome.WRITTEN
    assert await deviation(side, 2) is None
    assert (await there(side)).document == DOCUMENT
    await side.expire("call-1")
    assert await deviation(side, 2) is Deviation.MISSING


async def test_a_deletion_by_other_software_does_not_fence(side: Side) -> None:
    await side.backend.write([a_write(version=5, epoch=5, owner="w", labels={"app": "sales"})])
    await side.store.delete("call-1")
    assert await side.backend.read("call-1") is None
    await side.store.save(SessionState("call-1", from_="+49"))
    assert (await there(side)).meta is None
    await side.store.delete("call-1")
    await side.backend.write([a_write(version=5, epoch=5)])
    await side.store.delete("call-1")
    again = structs.replace(a_write(version=1), seen=0)
    assert await outcome(side, again) is WriteOutcome.WRITTEN
