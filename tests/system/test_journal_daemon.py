"""The journal under a real daemon: who may use it, what a start refuses, what a full or dying disk does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from callstate_sidecar.journal.format import frames
from callstate_sidecar.journal.layout import generation_of
from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.journals import write_long_journal
from support.redis_server import RedisServer, binaries
from support.service_manager import ServiceManager
from support.wire import Refused, Wire

pytestmark = [pytest.mark.system]


def save(wire: Wire, session: str, turns: int = 0, size: int = 10) -> None:
    history = [{"role": "user", "content": f"{n:04d}".ljust(size, "x")} for n in range(turns)]
    wire.call("session.save", session={"id": session, "history": history})


def journal_tool(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "callstate_sidecar", "journal", *args], capture_output=True, text=True, check=False
    )


def newest_log(daemon: Daemon) -> Path:
    return max((daemon.state_dir / "journal").glob("log-*.csj"))


def test_a_second_daemon_on_the_same_journal_names_the_first_ones_pid() -> None:
    with Daemon() as first:
        second = subprocess.run(
            [*first.command(), "--socket", f"{first.root}/s2"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert second.returncode == Exit.ALREADY_RUNNING
        assert first.process is not None
        assert str(first.process.pid) in second.stderr


def test_a_second_daemon_on_the_same_socket_leaves_it_alone() -> None:
    with Daemon() as first:
        second = subprocess.run(
            [*first.command(), "--state-dir", f"{first.root}/other"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert second.returncode == Exit.ALREADY_RUNNING
        assert first.answers()


def test_op_results_survive_kill_and_stop() -> None:
    with Daemon() as daemon:
        turn = {"role": "user", "content": "once"}
        with Wire(daemon.socket) as wire:
            save(wire, "c1")
            first = wire.call("session.add_turn", session_id="c1", turn=turn, op="w1-1")
        daemon.kill()
        daemon.start()
        with Wire(daemon.socket) as wire:
            assert wire.call("session.add_turn", session_id="c1", turn=turn, op="w1-1") == first
            second = wire.call("session.add_turn", session_id="c1", turn=turn, op="w1-2")
        daemon.restart()
        with Wire(daemon.socket) as wire:
            assert wire.call("session.add_turn", session_id="c1", turn=turn, op="w1-1") == first
            assert wire.call("session.add_turn", session_id="c1", turn=turn, op="w1-2") == second
            assert wire.call("session.load", session_id="c1")["turn_count"] == 2


def test_everything_beside_the_document_survives_without_the_store() -> None:
    with Daemon("--set", "store.flush_interval_s=60") as daemon:
        with Wire(daemon.socket) as wire:
            params = {"labels": {"app": "sales"}, "heartbeat_timeout_s": 77.5, "max_duration_s": 900}
            wire.call("session.save", session={"id": "c1", "provider": "sip"}, **params)
            wire.call("session.save", session={"id": "c2"})
            wire.call("session.end", session_id="c2", reason="caller_hangup", detail={"cause": 16})
            before = [wire.call("session.load", session_id=session) for session in ("c1", "c2")]
        daemon.kill()
        for leftover in daemon.state_dir.glob("callstate.db*"):
            leftover.unlink()
        daemon.start()
        with Wire(daemon.socket) as wire:
            after = [wire.call("session.load", session_id=session) for session in ("c1", "c2")]
            assert after == before
            assert after[1]["ended_detail"] == {"cause": 16}
            listed = wire.call("session.list", labels={"app": "sales"})["sessions"]
            assert [one["session"]["id"] for one in listed] == ["c1"]


def test_an_unfinished_tail_is_cut_set_aside_and_logged() -> None:
    with Daemon() as daemon:
        with Wire(daemon.socket) as wire:
            save(wire, "c1", turns=3)
        daemon.kill()
        log = newest_log(daemon)
        data = log.read_bytes()
        end = [*frames(data, generation_of(log))][-1].after
        log.write_bytes(data[:end] + b"\xa5CSR half a record" + data[end + 18 :])
        daemon.start()
        with Wire(daemon.socket) as wire:
            assert wire.call("session.load", session_id="c1")["turn_count"] == 3
        assert "incomplete record" in daemon.log()
        assert list((daemon.state_dir / "journal").glob("*.aside-1"))


def test_damage_in_what_was_synced_refuses_to_start_and_repair_saves_the_rest() -> None:
    daemon = Daemon("--set", "journal.sync_interval_s=0.01")
    try:
        daemon.start()
        with Wire(daemon.socket) as wire:
            for number in range(20):
                save(wire, f"c{number}", turns=3)
            while wire.call("server.stats")["journal_unsynced"]:
                pass
        daemon.kill()
        log = newest_log(daemon)
        data = bytearray(log.read_bytes())
        place = data.index(b"c7")
        data[place] ^= 1
        log.write_bytes(data)

        daemon.launch()
        assert daemon.process is not None
        assert daemon.process.wait(20) == Exit.JOURNAL
        said = daemon.log()
        assert str(log) in said
        assert "callstated journal repair" in said
        journal = str(daemon.state_dir)
        verified = journal_tool("verify", journal)
        assert verified.returncode == Exit.JOURNAL
        assert str(log) in verified.stderr

        repaired = journal_tool("repair", journal)
        assert repaired.returncode == 0, repaired.stderr
        assert "19 sessions" in repaired.stdout
        assert "1 records are lost" in repaired.stdout
        assert journal_tool("verify", journal).returncode == 0
        daemon.start()
        with Wire(daemon.socket) as wire:
            found = [wire.call("session.load", session_id=f"c{n}") for n in range(20) if n != 7]
            assert all(one["turn_count"] == 3 for one in found)
        assert list((daemon.state_dir / "journal").glob("damaged-*"))
    finally:
        daemon.close(expect="is damaged at byte")


def test_the_tool_inspects_and_exports_and_will_not_repair_under_a_daemon() -> None:
    with Daemon() as daemon:
        with Wire(daemon.socket) as wire:
            save(wire, "c1", turns=2)
            loaded = wire.call("session.load", session_id="c1")
        assert journal_tool("repair", str(daemon.state_dir)).returncode == Exit.ALREADY_RUNNING
        copy = daemon.root / "copy"
        shutil.copytree(daemon.state_dir / "journal", copy)
        exported = journal_tool("export", str(copy))
        # the timeout, which a load tells workers alone, and whose it is, which it tells nobody
        told = loaded | {"heartbeat_timeout_s": 30.0, "uid": os.getuid(), "gid": os.getgid()}
        assert [json.loads(line) for line in exported.stdout.splitlines()] == [told]
        inspected = journal_tool("inspect", str(copy))
        assert "StateRecord" in inspected.stdout
        assert journal_tool("inspect", str(daemon.root)).returncode == Exit.USAGE


@pytest.fixture
def small_disk(short_dir: Path) -> Iterator[Path]:
    """A file system with room for two segments and a half."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mount = short_dir / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(mount)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_refuses_writes_serves_reads_and_resumes_by_itself(small_disk: Path) -> None:
    daemon = Daemon("--set", "journal.checkpoint_min_bytes=1073741824")
    daemon.state_dir = small_disk / "state"
    store = daemon.root / "store.db"
    daemon.store = f"sqlite:{store}"  # not on the small disk: the journal is what fills
    try:
        daemon.start()
        ballast = small_disk / "ballast"
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - 1024 * 1024)))
        acknowledged: dict[str, int] = {}
        with Wire(daemon.socket) as wire:
            refused = None
            for number in range(400):
                history = [{"role": "user", "content": "x" * 100_000}]
                try:
                    reply = wire.call("session.save", session={"id": f"c{number}", "history": history})
                except Refused as error:
                    refused = (f"c{number}", error)
                    break
                acknowledged[f"c{number}"] = reply["version"]
            assert refused is not None
            assert refused[1].data == {"kind": "not_durable", "retryable": True}
            assert len(acknowledged) > 50
            # reads and beats go on; the refused one did not happen
            assert wire.call("session.heartbeat", session_id="c0") == {}
            with pytest.raises(Refused, match="not_found"):
                wire.call("session.load", session_id=refused[0])
            assert wire.call("server.stats")["journal"] == "failing"
            ballast.unlink()
            save(wire, "after", turns=1)
            acknowledged["after"] = wire.call("session.load", session_id="after")["version"]
            assert wire.call("server.stats")["journal"] == "ok"
        daemon.kill()
        store.unlink(missing_ok=True)
        daemon.start()
        with Wire(daemon.socket) as wire:
            for session, version in acknowledged.items():
                assert wire.call("session.load", session_id=session, history="none")["version"] == version
    finally:
        daemon.close(expect="the journal can't be written|checkpoint")


def test_failing_checkpoints_do_not_eat_a_small_disk(small_disk: Path) -> None:
    daemon = Daemon("--set", "journal.checkpoint_min_bytes=1048576", "--set", "journal.sync_interval_s=0.01")
    daemon.state_dir = small_disk / "state"
    daemon.store = f"sqlite:{daemon.root}/store.db"
    ballast = small_disk / "ballast"
    # retries follow at once, and the second segment and the snapshot find no room
    patched(daemon, "from callstate_sidecar.journal import maintenance\nmaintenance.RETRY_S = 0\n")
    try:
        daemon.start()
        free = os.statvfs(small_disk)
        ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - 4 * 1024 * 1024))
        with Wire(daemon.socket) as wire:
            for number in range(20):
                save(wire, f"c{number}", turns=1, size=300_000)
            while wire.call("server.stats").get("checkpoints_failed", 0) < 20:
                pass
            taken = wire.call("server.stats")["journal_disk_bytes"]
            assert taken < 18 * 1024 * 1024
            save(wire, "late")  # the segment under way has its room
            ballast.unlink()
            while len(list((daemon.state_dir / "journal").glob("snapshot-*.csj"))) != 1:
                wire.call("server.ping")
        daemon.restart()
        with Wire(daemon.socket) as wire:
            assert wire.call("session.load", session_id="c19")["turn_count"] == 1
    finally:
        daemon.close(expect="the checkpoint failed")


def patched(daemon: Daemon, code: str) -> None:
    """Let the daemon run this first, in its own process."""
    plain = daemon.command
    code += "import sys\nfrom callstate_sidecar.launch import main\nsys.exit(main(sys.argv[1:]))\n"
    daemon.command = lambda: [sys.executable, "-c", code, *plain()[3:]]  # type: ignore[method-assign]


def test_a_stop_while_slow_checkpoints_are_written_loses_nothing() -> None:
    daemon = Daemon("--set", "journal.checkpoint_min_bytes=4096", "--set", "journal.sync_interval_s=0.01")
    code = (
        "import os, pathlib, threading, time\n"
        "real = os.fdatasync\n"
        "def slow(fd):\n"
        "    name = pathlib.Path(os.readlink(f'/proc/self/fd/{fd}')).name\n"
        "    in_thread = threading.current_thread() is not threading.main_thread()\n"
        "    time.sleep(0.4 if in_thread and name.startswith('log-') else 0)\n"
        "    real(fd)\n"
        "os.fdatasync = slow\n"
    )
    patched(daemon, code)
    try:
        sessions = 0
        for _ in range(3):
            daemon.start()
            with Wire(daemon.socket) as wire:
                for _ in range(20):
                    save(wire, f"c{sessions}", turns=1)
                    sessions += 1
                before = newest_log(daemon)
                while newest_log(daemon) == before:  # then a checkpoint has begun
                    save(wire, "c0", turns=1, size=2000)
                save(wire, "c0", turns=1)  # so that the stop's own goes by another segment
            assert daemon.terminate() == 0
            for leftover in daemon.state_dir.glob("callstate.db*"):
                leftover.unlink()
        daemon.start()
        with Wire(daemon.socket) as wire:
            for number in range(sessions):
                assert wire.call("session.load", session_id=f"c{number}")["turn_count"] == 1
    finally:
        daemon.close()


def test_a_lost_host_id_comes_back_from_the_journal() -> None:
    with Daemon() as daemon:
        path = daemon.state_dir / "host-id"
        known = path.read_text()
        with Wire(daemon.socket) as wire:
            save(wire, "c1", turns=1)
            wire.call("server.flush")
        for left in (None, b"", known[:7].encode()):
            daemon.kill()
            if left is None:
                path.unlink()
            else:
                path.write_bytes(left)
            daemon.start()
            assert path.read_text() == known
            with Wire(daemon.socket) as wire:
                assert wire.call("server.info")["host_id"] == known.strip()
                save(wire, "c1", turns=2)
                wire.call("server.flush")
                assert wire.call("server.stats")["quarantined"] == 0


def test_a_sync_that_fails_stops_the_daemon_and_says_why() -> None:
    daemon = Daemon("--set", "journal.sync_interval_s=0.01")
    trigger = daemon.root / "fail"
    code = (
        "import errno, os\n"
        "from callstate_sidecar.journal import Files\n"
        "real = Files.sync\n"
        "def sync(self, fd):\n"
        f"    if os.path.exists({str(trigger)!r}):\n"
        "        raise OSError(errno.EIO, os.strerror(errno.EIO))\n"
        "    real(self, fd)\n"
        "Files.sync = sync\n"
    )
    patched(daemon, code)
    try:
        daemon.start()
        with Wire(daemon.socket) as wire:
            save(wire, "c1", turns=1)
            trigger.touch()
            save(wire, "c2", turns=1)
        assert daemon.process is not None
        assert daemon.process.wait(20) == Exit.FAILED
        assert "can't be synced" in daemon.log()
        trigger.unlink()
        daemon.start()
        with Wire(daemon.socket) as wire:
            assert wire.call("session.load", session_id="c2")["turn_count"] == 1
    finally:
        daemon.close(expect="can't be synced")


def test_a_stop_with_the_store_away_ends_well_and_loses_nothing() -> None:
    daemon = Daemon("--set", "server.shutdown_flush_s=0.05", store="unix:///nonexistent/redis.sock")
    try:
        daemon.start()
        with Wire(daemon.socket) as wire:
            save(wire, "c1", turns=2)
        assert daemon.terminate() == 0
        assert "1 sessions not yet in the store" in daemon.log()
        daemon.start()
        with Wire(daemon.socket) as wire:
            assert wire.call("session.load", session_id="c1")["turn_count"] == 2
    finally:
        daemon.close()


def test_a_second_signal_leaves_at_once() -> None:
    patient = ("server.shutdown_flush_s=60", "store.timeout_s=20", "store.flush_interval_s=30")
    with RedisServer(binaries()["valkey"]) as redis:
        daemon = Daemon(*(part for setting in patient for part in ("--set", setting)), store=redis.url)
        try:
            daemon.start()
            with Wire(daemon.socket) as wire:
                save(wire, "c1", turns=2)
                redis.pause()  # for a store that is not there a stop would not wait
                daemon.signal(signal.SIGTERM)
                with pytest.raises(Refused, match="shutting_down"):
                    while True:
                        wire.call("server.ping")
                assert daemon.end_with(signal.SIGTERM) == Exit.FAILED
            assert "exiting at once" in daemon.log()
            redis.resume()
            daemon.start()
            with Wire(daemon.socket) as wire:
                assert wire.call("session.load", session_id="c1")["turn_count"] == 2
            daemon.kill()
        finally:
            daemon.close()


def test_a_long_replay_asks_systemd_for_patience_and_says_ready_only_when_it_serves(short_dir: Path) -> None:
    manager = ServiceManager(str(short_dir / "notify"))
    daemon = Daemon()
    try:
        write_long_journal(daemon.state_dir / "journal", turns=20_100)
        environ = os.environ | manager.environ
        with subprocess.Popen(daemon.command(), env=environ, stderr=subprocess.DEVNULL) as process:
            try:
                lines = manager.received_until("READY=1")
                assert "EXTEND_TIMEOUT_USEC=30000000" in lines
                assert lines.index("EXTEND_TIMEOUT_USEC=30000000") < lines.index("READY=1")
                assert daemon.answers()
                with Wire(daemon.socket) as wire:
                    assert wire.call("session.load", session_id="c1", history="none")["turn_count"] == 20_100
            finally:
                process.terminate()
    finally:
        manager.close()
        daemon.close()
