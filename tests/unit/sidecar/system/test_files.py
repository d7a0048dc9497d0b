"""Files that the daemon and its tools make: never through a symbolic link, and for their owner alone."""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from callstate_client.cli.commands import install_units
from callstate_client.engine.sessions.stored import StoreError
from callstate_client.engine.table.replay import snapshot
from callstate_client.new_files import output_file
from callstate_sidecar.hosts.lease import LeaseNote
from callstate_sidecar.journal import Checkpointer, Files
from callstate_sidecar.journal import cli as journal_cli
from callstate_sidecar.serving.listener import Listener
from callstate_sidecar.stores.sqlite.database import Database
from callstate_sidecar.stores.sqlite.inspection import inspect_file
from callstate_sidecar.system.files import make_directory
from callstate_sidecar.system.state_dir import StateDir
from support.journals import JournaledTable, turn

ROOT = Path(__file__).parents[4]

PRECIOUS = b"precious"
ODD_MODE = 0o644


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """A file of somebody else, which has to stay as it is whatever leads to it."""
    path = tmp_path / "precious"
    path.write_bytes(PRECIOUS)
    path.chmod(ODD_MODE)
    yield path
    assert path.read_bytes() == PRECIOUS
    assert stat.S_IMODE(path.stat().st_mode) == ODD_MODE


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir(mode=0o700)
    return tmp_path / "place"


def plant(place: Path, name: str, precious: Path) -> Path:
    link = place / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(precious)
    return link


def test_the_lock_of_the_state_directory_is_not_followed(place: Path, precious: Path) -> None:
    plant(place, "lock", precious)
    with pytest.raises(OSError, match="lock"):
        StateDir(place)


def test_the_host_id_is_not_written_through_a_link(place: Path, precious: Path) -> None:
    plant(place, "host-id.tmp", precious)
    plant(place, "host-id", precious)
    state = StateDir(place)
    state.host_id("")
    assert (place / "host-id").is_file()
    assert not (place / "host-id").is_symlink()
    assert not (place / "host-id.tmp").is_symlink()
    state.close()


def test_the_lease_note_is_not_followed(place: Path, precious: Path) -> None:
    link = plant(place, "lease", precious)
    note = LeaseNote(link)
    note.write("instance", 7)  # not a reason to end a round among the hosts
    assert link.is_symlink()
    assert note.read() is None


def test_the_lock_of_the_socket_is_not_followed(short_dir: Path, precious: Path) -> None:
    plant(short_dir, "s.lock", precious)
    with pytest.raises(OSError, match=r"s\.lock"):
        Listener(short_dir / "s")


def test_a_link_in_place_of_the_socket_is_refused(short_dir: Path, precious: Path) -> None:
    plant(short_dir, "s", precious)
    with pytest.raises(Exception, match="is not a socket"):
        Listener(short_dir / "s")


@pytest.mark.parametrize("name", ["MANIFEST.tmp", "log-000000000001.tmp", "snapshot-000000000002.tmp"])
def test_no_draft_of_the_journal_is_followed(place: Path, precious: Path, name: str) -> None:
    journaled = JournaledTable(place)
    plant(place, name, precious)
    journaled.create("a")
    journaled.add_turn("a", turn(1))
    table = journaled.harness.table
    Checkpointer(journaled.journal, Files(), partial(snapshot, table), lambda: None).run_now()
    journaled.journal.close()
    assert not any(path.is_symlink() and path.name != name for path in place.iterdir())
    again = JournaledTable(place)
    assert again.harness.table.sessions.keys() == {"a"}
    again.journal.close()


@pytest.mark.parametrize("name", ["log-000000000002.csj", "snapshot-000000000002.csj", "spare-000000000001.csj"])
def test_a_file_of_the_journal_that_is_a_link_is_not_written_to(place: Path, precious: Path, name: str) -> None:
    journaled = JournaledTable(place)
    journaled.create("a")
    plant(place, name, precious)
    with suppress(OSError):
        Checkpointer(journaled.journal, Files(), partial(snapshot, journaled.harness.table), lambda: None).run_now()
    journaled.journal.close()


@pytest.mark.parametrize("name", ["callstate.db", "callstate.db-wal", "callstate.db-shm", "callstate.db-journal"])
async def test_the_sqlite_files_are_not_followed(place: Path, precious: Path, name: str) -> None:
    plant(place, name, precious)
    database = Database(place / "callstate.db", timeout_s=0.1, clock=lambda: 1.0)
    with suppress(StoreError):  # SQLite removes leftovers of a database that is new
        await database.run(lambda connection, _: connection.execute("CREATE TABLE t (x)").fetchall())
    await database.close()


async def test_a_doctor_does_not_change_the_mode_of_what_a_link_leads_to(place: Path, precious: Path) -> None:
    database = Database(place / "callstate.db", timeout_s=0.1, clock=lambda: 1.0)
    await database.run(lambda connection, _: connection.execute("SELECT 1").fetchall())
    await database.close()
    plant(place, "callstate.db-wal", precious)
    with suppress(OSError):
        inspect_file(place / "callstate.db", repair=True)


def test_exports_of_the_journal_replace_a_link(place: Path, precious: Path, tmp_path: Path) -> None:
    JournaledTable(place / "journal").journal.close()
    plant(tmp_path, "out.part", precious)
    assert journal_cli.main(["export", str(place), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").is_file()
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_exports_of_the_command_line_replace_a_link(place: Path, precious: Path) -> None:
    plant(place, "out.part", precious)
    with output_file(place / "out") as file:
        file.write(b"calls\n")
    assert (place / "out").read_bytes() == b"calls\n"
    assert stat.S_IMODE((place / "out").stat().st_mode) == 0o600


def test_units_are_not_written_through_a_link(place: Path, precious: Path) -> None:
    plant(place, ".unit.new", precious)
    install_units._replace(place / "unit", "[Unit]\n")  # pyright: ignore[reportPrivateUsage]
    assert (place / "unit").read_text() == "[Unit]\n"
    assert stat.S_IMODE((place / "unit").stat().st_mode) == 0o644


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
async def test_everything_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        directory = tmp_path / "a" / "state"
        state = StateDir(directory)
        state.host_id("")
        LeaseNote(directory / "lease").write("instance", 7)
        journaled = JournaledTable(directory / "journal")
        journaled.create("a")
        Checkpointer(journaled.journal, Files(), partial(snapshot, journaled.harness.table), lambda: None).run_now()
        database = Database(directory / "callstate.db", timeout_s=0.1, clock=lambda: 1.0)
        await database.run(lambda connection, _: connection.execute("CREATE TABLE t (x)").fetchall())
        modes = {path: (path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (tmp_path / "a").rglob("*")}
        await database.close()
        journaled.journal.close()
        state.close()
    finally:
        os.umask(before)
    assert {path.name for path in modes} >= {"lock", "host-id", "lease", "MANIFEST", "callstate.db-wal"}
    for path, (is_directory, mode) in modes.items():
        assert mode == (0o700 if is_directory else 0o600), path


def test_directories_above_are_for_their_owner_alone_too(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_directory(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").rglob("*")} == {0o700}


# Where files may be opened for writing, created, or given a mode, and why there.
OPENERS: Final = {
    "sidecar/callstate_sidecar/system/files.py": "the helper of the daemon",
    "client/callstate_client/new_files.py": "the helper of daemon and command line",
}
EXCEPTIONS: Final = {
    ("sidecar/callstate_sidecar/system/stdio.py", "os.open"): "/dev/null",
    ("sidecar/callstate_sidecar/system/stdio.py", "open"): "a descriptor that is open",
    ("client/callstate_client/cli/stdio.py", "os.open"): "/dev/null",
    ("client/callstate_client/cli/stdio.py", "open"): "a descriptor that is open",
    ("client/callstate_client/transport/fork_safety.py", "os.open"): "/dev/null",
    ("sidecar/callstate_sidecar/logs/journald.py", "open"): "a descriptor that is open",
    ("sidecar/callstate_sidecar/stores/sqlite/database.py", "sqlite3.connect"): "made by the helper just before",
    ("sidecar/callstate_sidecar/stores/sqlite/erasure.py", "sqlite3.connect"): "mode=rw: it exists",
    ("sidecar/callstate_sidecar/stores/sqlite/inspection.py", "sqlite3.connect"): "mode=ro",
    ("sidecar/callstate_sidecar/journal/repair.py", "mkdir"): "has to be new",
    ("client/callstate_client/cli/commands/install_units.py", "mkdir"): "of units, open to all",
}
WRITERS: Final = frozenset({"write_text", "write_bytes", "touch", "mkdir", "makedirs", "chmod", "lchmod", "mknod",
                            "mkfifo", "mkstemp", "mkdtemp", "NamedTemporaryFile"})  # fmt: skip


def calls(path: Path) -> Iterator[str]:
    """Calls of a module that open or make files, by name. Those that open for reading alone are left out."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        last = name.rpartition(".")[2]
        if name in ("os.open", "sqlite3.connect") or last in WRITERS:
            yield last if last in WRITERS else name
        elif name == "open" or (last == "open" and "files" not in name):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            modes = {each.value for each in given if isinstance(each, ast.Constant)}
            if any(
                isinstance(mode, str) and set(mode) <= set("rwxabt+") and set(mode) & set("wxa+") for mode in modes
            ):
                yield name if name == "open" else last


def test_files_are_opened_for_writing_in_one_place_only() -> None:
    found: set[tuple[str, str]] = set()
    for folder in ("client", "sidecar"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            where = path.relative_to(ROOT).as_posix()
            if where not in OPENERS:
                found |= {(where, call) for call in calls(path)}
    assert found == set(EXCEPTIONS)
