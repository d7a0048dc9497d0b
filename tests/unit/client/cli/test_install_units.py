"""`callstate install-units`: what is written where, and what becomes of files that are there already."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from callstate_client.cli.app import run
from callstate_client.cli.commands import install_units as command
from callstate_client.cli.install_units import files, program
from callstate_client.cli.install_units.program import UnusableError

SOURCES = Path(__file__).parents[4] / "systemd"
PROGRAM = "/opt/callstate/bin/callstated"
SERVICE = "etc/systemd/system/callstate.service"
CONFIG = "etc/callstate/callstate.toml"


def install(root: Path, *more: str, path: str = PROGRAM) -> int:
    return run(["install-units", "--root", str(root), "--callstated", path, *more])


def outcomes(capsys: pytest.CaptureFixture[str], root: Path) -> dict[str, str]:
    """By path relative to the root, what the last `--json` run said."""
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    return {str(Path(each["path"]).relative_to(root)): each["outcome"] for each in document["files"]}


def test_every_packaged_file_is_installed(tmp_path: Path) -> None:
    assert install(tmp_path, *(word for name in files.drop_ins() for word in ("--drop-in", name))) == 0
    installed = [path for path in tmp_path.rglob("*") if path.is_file()]
    packaged = [path for path in SOURCES.rglob("*") if path.is_file()]
    assert len(installed) == len(packaged)
    for source in packaged:
        body = source.read_text("utf-8").replace("/usr/bin/callstated", PROGRAM)
        assert any(path.read_text("utf-8").endswith(body) for path in installed), source
    assert {path.stat().st_mode & 0o777 for path in installed} == {0o644}


def test_the_units_start_the_program_that_is_installed(tmp_path: Path) -> None:
    install(tmp_path, path="/srv/callstate/bin/callstated")
    for name in ("callstate.service", "callstate@.service"):
        text = (tmp_path / "etc/systemd/system" / name).read_text("utf-8")
        started = re.findall(r"^Exec\w+=.*?(\S*callstated) ", text, re.MULTILINE)
        assert started == ["/srv/callstate/bin/callstated"] * 2  # also where a reload checks the configuration


def test_a_second_installation_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert install(tmp_path, "--json") == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    said = outcomes(capsys, tmp_path)
    assert said.pop(CONFIG) == "keep"
    assert set(said.values()) == {"unchanged"}


def test_a_file_of_an_earlier_version_is_updated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path, "--drop-in", "no-network", path="/elsewhere/callstated")
    drop_in = tmp_path / "etc/systemd/system/callstate.service.d/no-network.conf"
    drop_in.write_text(files._marked("[Service]\n", "0.0.1"), "utf-8")
    assert install(tmp_path, "--json") == 0
    assert outcomes(capsys, tmp_path)[SERVICE] == "update"
    assert "PrivateNetwork=yes" in drop_in.read_text("utf-8"), "a drop-in that is there need not be named again"
    assert not list(tmp_path.rglob("*.saved*"))


def test_an_edited_file_is_kept_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(tmp_path)
    service = tmp_path / SERVICE
    intact = service.read_text("utf-8")
    for number in (1, 2):
        service.write_text(f"{intact}# {number}\n", "utf-8")
        assert install(tmp_path) == 0
        assert f"kept as callstate.service.saved{number}" in capsys.readouterr().out
        assert service.read_text("utf-8") == intact
        kept = service.with_name(f"callstate.service.saved{number}")
        assert kept.read_text("utf-8") == f"{intact}# {number}\n"


def test_a_file_that_was_copied_by_hand_is_kept_aside(tmp_path: Path) -> None:
    service = tmp_path / SERVICE
    service.parent.mkdir(parents=True)
    service.write_bytes((SOURCES / "callstate.service").read_bytes() + b"# caf\xe9\n")
    assert install(tmp_path) == 0
    assert service.with_name("callstate.service.saved1").read_bytes().endswith(b"# caf\xe9\n")


def test_configuration_and_masks_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / CONFIG).parent.mkdir(parents=True)
    (tmp_path / CONFIG).write_text("[log]\nlevel = 'debug'\n")
    (tmp_path / SERVICE).parent.mkdir(parents=True)
    (tmp_path / SERVICE).symlink_to("/dev/null")
    assert install(tmp_path) == 0
    assert (tmp_path / CONFIG).read_text() == "[log]\nlevel = 'debug'\n"
    assert (tmp_path / SERVICE).readlink() == Path("/dev/null")


def test_a_removal_leaves_configuration_and_state_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "--drop-in", "metrics")
    (tmp_path / "var/lib/callstate/journal").mkdir(parents=True)
    override = tmp_path / "etc/systemd/system/callstate.service.d/override.conf"
    override.write_text("[Service]\nNice=1\n")
    socket = tmp_path / "etc/systemd/system/callstate.socket"
    socket.write_text(socket.read_text("utf-8") + "# edited\n")
    capsys.readouterr()

    assert run(["install-units", "--remove", "--root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        CONFIG,
        "etc/systemd/system/callstate.service.d/override.conf",
        "etc/systemd/system/callstate.socket.saved1",
    }
    assert f"left: {tmp_path}/var/lib/callstate (journal, SQLite file and host id)" in said
    assert f"left: {tmp_path}/etc/callstate (the configuration)" in said
    assert "left: the user and the group callstate" in said
    assert "callstate.socket  (it was edited: kept as callstate.socket.saved1)" in said

    assert run(["install-units", "--remove", "--root", str(tmp_path)]) == 0
    assert "no units of callstate are installed" in capsys.readouterr().out


def test_only_units_that_are_there_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them may be missing or masked: systemctl would fail on those."""
    install(tmp_path)
    units = tmp_path / "etc/systemd/system"
    (units / "callstate.service").unlink()
    (units / "callstate@.socket").unlink()
    (units / "callstate@.socket").symlink_to("/dev/null")
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(command, "_tell_systemd", lambda _, commands: told.extend(commands))
    assert run(["install-units", "--remove", "--root", str(tmp_path)]) == 0
    assert told == [
        ("systemctl", "stop", "callstate.socket", "callstate@*.socket", "callstate@*.service"),
        ("systemctl", "disable", "callstate.socket", "callstate@.service"),
        ("systemctl", "daemon-reload"),
    ]
    assert [path.name for path in units.iterdir()] == ["callstate@.socket"]


def test_a_dry_run_says_what_would_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(tmp_path, "--dry-run") == 0
    assert f"create     {tmp_path / SERVICE}\n" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    install(tmp_path)
    assert run(["install-units", "--remove", "--dry-run", "--root", str(tmp_path)]) == 0
    assert (tmp_path / SERVICE).exists()


def test_only_root_installs_for_this_system(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert run(["install-units"]) == 1
    assert "only root may write to /etc" in capsys.readouterr().err


def test_systemd_is_told_of_this_system_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(command.subprocess, "run", lambda words, **_: told.append(words))
    monkeypatch.setattr(command, "_BOOTED", tmp_path)
    command._tell_systemd(tmp_path, [("systemctl", "daemon-reload")])
    assert told == []
    command._tell_systemd(Path("/"), [("systemctl", "daemon-reload")])
    assert told == [("systemctl", "daemon-reload")]
    monkeypatch.setattr(command, "_BOOTED", tmp_path / "absent")  # a container image that is being built
    command._tell_systemd(Path("/"), [("systemctl", "daemon-reload")])
    assert len(told) == 1


# -- the program ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/home/ann/venv/bin/callstated", "ProtectHome=yes"),
        ("/root/venv/bin/callstated", "ProtectHome=yes"),
        ("/tmp/venv/bin/callstated", "PrivateTmp=yes"),
        ("/opt/call state/bin/callstated", "not an absolute path that systemd takes"),
        ("/opt/50%/callstated", "not an absolute path that systemd takes"),
    ],
)
def test_a_program_that_no_unit_can_start_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, why: str
) -> None:
    assert install(tmp_path, path=path) == 1
    assert why in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_hidden_paths_are_those_of_the_unit() -> None:
    unit = (SOURCES / "callstate.service").read_text("utf-8").splitlines()
    assert set(program._HIDDEN.values()) <= set(unit)


def test_a_program_in_an_image_has_the_path_that_it_will_have_there(tmp_path: Path) -> None:
    inside = tmp_path / "opt/callstate/bin/callstated"
    assert program.inside(tmp_path, inside) == Path("/opt/callstate/bin/callstated")
    assert program.inside(tmp_path, Path("/opt/callstate/bin/callstated")) == Path("/opt/callstate/bin/callstated")
    assert program.inside(Path("/"), inside) == inside


def test_a_program_that_is_closed_to_the_service_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "venv"
    folder.mkdir()
    (folder / "callstated").touch(0o755)
    folder.chmod(0o700)
    with pytest.raises(UnusableError, match=rf"can't read {re.escape(str(folder))}"):
        program._check_open(folder / "callstated")


def test_the_program_is_the_one_installed_beside_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/callstated").touch()
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    assert program.installed() == tmp_path / "bin/callstated"
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(UnusableError, match="--callstated"):
        program.installed()
