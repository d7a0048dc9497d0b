"""`server.erase` and `callstate erase`: no file of the daemon has the call any more, and all else is kept."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from callstate_client.cli import main
from support.command_line import wait_until
from support.daemon import Daemon
from support.redis_server import RedisServer
from support.wire import Refused, Wire, request

pytestmark = [pytest.mark.system]

MARKERS = (
    b"erase-me-turn",
    b"447700900123",
    b"erase-me-recovery",
    b"erase-me-label",
    b"erase-me-early",
    b"erase-me-call",
)

ERASED = "erased: no file of the daemon or its store contains its bytes any more"

SEGMENT_BYTES = 16 * 1024 * 1024


@pytest.fixture(params=["sqlite", "redis"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon that syncs often, and that makes a checkpoint when more than a segment has been filled."""
    store = None
    if request.param == "redis":
        store = request.getfixturevalue("own_redis_server").url
    args = [f"journal.checkpoint_min_bytes={SEGMENT_BYTES + 1}", "journal.sync_interval_s=0.05"]
    with Daemon(*(word for arg in args for word in ("--set", arg)), store=store) as running:
        yield running


def plant(wire: Wire, session_id: str = "c1") -> None:
    """Save a call with every marker in it, and have the store write it more than once."""
    state = {
        "id": session_id, "call_id": "erase-me-call", "from": "+447700900123", "status": "active",
        "recovery_data": {"card": "erase-me-recovery"},
        "history": [{"role": "user", "content": "erase-me-turn " * 2000}],
    }  # fmt: skip
    wire.call("session.save", session=state | {"note": "erase-me-early"}, labels={"name": "erase-me-label"})
    flush(wire)
    for number in range(5):
        turn = {"role": "agent", "content": f"erase-me-turn {number} " * 400}
        wire.call("session.add_turn", session_id=session_id, turn=turn)
        flush(wire)
    wire.call("session.update", session_id=session_id, set={"note": None})
    flush(wire)


def others(wire: Wire) -> dict[str, bytes]:
    """Save two more calls; returns their documents."""
    for number in (2, 3):
        history = [{"role": "user", "content": f"kept {number} " * 500}]
        wire.call("session.save", session={"id": f"c{number}", "status": "active", "history": history})
    flush(wire)
    return {session_id: wire.document(session_id) for session_id in ("c2", "c3")}


def flush(wire: Wire) -> None:
    assert wire.call("server.flush", timeout_s=10)["unflushed"] == 0


def found(root: Path) -> set[tuple[str, bytes]]:
    """The files below this directory that contain a marker, with the marker."""
    hits = set()
    for path in [path for path in root.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        hits |= {(path.name, marker) for marker in MARKERS if marker in content}
    return hits


def fill_segments(wire: Wire, daemon: Daemon) -> None:
    """Change a call until a spare segment has markers in it."""
    wire.call("session.save", session={"id": "filler", "status": "active"})
    for _ in range(SEGMENT_BYTES // 500_000 + 3):
        wire.call("session.update", session_id="filler", set={"recovery_data": {"x": "y" * 500_000}})
    wait_until(daemon, lambda _: bool(dirty_spares(daemon)))
    wire.call("session.delete", session_id="filler")


def dirty_spares(daemon: Daemon) -> list[Path]:
    spares = (daemon.state_dir / "journal").glob("spare-*")
    return [path for path in spares if MARKERS[0] in path.read_bytes()]


def refusal(wire: Wire, session_id: str = "c1", method: str = "server.erase") -> str:
    with pytest.raises(Refused) as refused:
        wire.call(method, session_id=session_id)
    return refused.value.kind


def redis_contents(server: RedisServer) -> bytes:
    """Every key and value of the server, as it would dump them without compression."""
    with Redis.from_url(server.url, protocol=2) as raw:
        raw.config_set("rdbcompression", "no")
        return b"\n".join(b"%b %b" % (key, raw.dump(key)) for key in raw.keys("*"))


def set_aside(daemon: Daemon) -> None:
    """Have the store keep what other software had written, as if it had just been replaced."""
    if daemon.store is not None:
        with Redis.from_url(daemon.store, protocol=2) as raw:
            raw.set("{voicesession:c1}:foreign", b"erase-me-early")
        return
    (file,) = daemon.state_dir.glob("*.db")
    with closing(sqlite3.connect(file)) as connection, connection:
        row = "SELECT key, CAST('erase-me-early' AS BLOB) FROM session WHERE id = 'c1'"
        connection.execute(f"INSERT INTO document_set_aside {row}")


def test_no_file_has_the_calls_bytes_and_the_others_are_whole(
    daemon: Daemon, request: pytest.FixtureRequest
) -> None:
    with Wire(daemon.socket) as wire:
        kept = others(wire)
        plant(wire)
        assert {marker for _, marker in found(daemon.state_dir)} == set(MARKERS)
        set_aside(daemon)
        wire.call("session.end", session_id="c1")
        remains = wire.call("server.erase", session_id="c1")["remains"]
        assert found(daemon.state_dir) == set()
        if daemon.store is not None:
            assert "append-only" in remains[0]
            contents = redis_contents(request.getfixturevalue("own_redis_server"))
            assert b"kept 2" in contents
            assert not [marker for marker in MARKERS if marker in contents]
        assert refusal(wire, method="session.load") == "not_found"
        assert {session_id: wire.document(session_id) for session_id in kept} == kept
        assert wire.call("server.erase", session_id="c1")["remains"] == remains  # it may be repeated
    for end in (daemon.kill, daemon.terminate):
        end()
        assert found(daemon.state_dir) == set()
        daemon.start()
        with Wire(daemon.socket) as wire:
            assert refusal(wire, method="session.load") == "not_found"
            assert {session_id: wire.document(session_id) for session_id in kept} == kept


def test_spares_and_what_was_deleted_before_are_erased_too(daemon: Daemon) -> None:
    with Wire(daemon.socket) as wire:
        plant(wire)
        wire.call("session.delete", session_id="c1")
        fill_segments(wire, daemon)
        wire.call("server.erase", session_id="c1")
        assert found(daemon.state_dir) == set()


def test_one_that_is_live_is_refused_unless_it_is_to_be_ended(daemon: Daemon) -> None:
    with Wire(daemon.socket) as wire:
        plant(wire)
        assert refusal(wire) == "conflict"
        assert b"erase-me" in wire.document("c1")
        wire.call("server.erase", session_id="c1", end=True)
        assert found(daemon.state_dir) == set()


def test_one_that_the_store_never_had(daemon: Daemon) -> None:
    with Wire(daemon.socket) as wire:
        wire.call("session.save", session={"id": "c1", "status": "ended", "campaign": "erase-me-turn"})
        wire.call("server.erase", session_id="c1")
        assert found(daemon.state_dir) == set()
        assert refusal(wire, "nobody") == "not_found"


def test_killed_in_the_middle_it_stays_deleted_and_can_be_erased(own_redis_server: RedisServer) -> None:
    with Daemon(store=own_redis_server.url) as daemon:
        with Wire(daemon.socket) as wire, Wire(daemon.socket) as erasing:
            kept = others(wire)
            plant(wire)
            own_redis_server.pause()  # so that it waits for the store
            erasing.send(request(1, "server.erase", {"session_id": "c1", "end": True}))
            wait_until(daemon, lambda _: gone(wire))
        daemon.kill()
        own_redis_server.resume()
        daemon.start()
        with Wire(daemon.socket) as wire:
            assert refusal(wire, method="session.load") == "not_found"
            wire.call("server.erase", session_id="c1")
            assert found(daemon.state_dir) == set()
            assert not [marker for marker in MARKERS if marker in redis_contents(own_redis_server)]
            assert {session_id: wire.document(session_id) for session_id in kept} == kept


def gone(wire: Wire) -> bool:
    try:
        wire.call("session.load", session_id="c1", history="none")
    except Refused:
        return True
    return False


def test_without_its_store_it_is_deleted_and_says_that_it_is_not_erased(own_redis_server: RedisServer) -> None:
    with Daemon(store=own_redis_server.url) as daemon, Wire(daemon.socket) as wire:
        plant(wire)
        own_redis_server.pause()
        with pytest.raises(Refused) as refused:
            wire.call("server.erase", session_id="c1", end=True, timeout_s=0.2)
        assert refused.value.data == {"kind": "store_unavailable", "retryable": True}
        own_redis_server.resume()
        wire.call("server.erase", session_id="c1")
        assert found(daemon.state_dir) == set()


def test_the_command_says_what_stays_beyond_reach(daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> None:
    with Wire(daemon.socket) as wire:
        plant(wire)
        plant(wire, "c2")
        plant(wire, "c3")

    def callstate(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        return main(["--socket", str(daemon.socket), *words]), *capfd.readouterr()

    assert callstate("erase", "c1")[0] == 1
    status, out, _ = callstate("erase", "c1", "--end")
    assert (status, out.splitlines()[0]) == (0, f"c1 {ERASED}")
    assert "backups" in out
    assert callstate("rm", "c3", "--everywhere")[0] == 1, "it is live"
    status, out, _ = callstate("rm", "c3", "--everywhere", "--end")
    assert (status, out.splitlines()[0]) == (0, f"c3 {ERASED}")
    status, out, _ = callstate("erase", "c2", "--end", "--json")
    printed = json.loads(out)
    assert (printed["id"], printed["erased"], bool(printed["remains"])) == ("c2", True, True)
    assert found(daemon.state_dir) == set()


def test_without_a_log_nothing_is_written_to_the_journal() -> None:
    with Daemon("--set", "journal.durability=memory") as daemon:
        with Wire(daemon.socket) as wire:
            plant(wire)
        daemon.restart()  # a stop does write a checkpoint, and the start discards it
        assert found(daemon.state_dir)
        with Wire(daemon.socket) as wire:
            wire.call("server.erase", session_id="c1", end=True)
        assert found(daemon.state_dir) == set()
