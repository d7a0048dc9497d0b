"""systemd/: the units as systemd's own tools see them, and as they agree with the code."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from callstate_sidecar.config.load import load_config
from callstate_sidecar.config.reference import reference_toml
from callstate_sidecar.config.resolve import CREDENTIAL_NAME
from callstate_sidecar.config.schema import AccessConfig, Config
from callstate_sidecar.system.exits import Exit

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
SERVICE = UNITS / "callstate.service"
SOCKET = UNITS / "callstate.socket"
TEMPLATES = [UNITS / "callstate@.service", UNITS / "callstate@.socket"]
DROP_INS = sorted((UNITS / "drop-ins").glob("*.conf"))

# Of `systemd-analyze security`, by drop-in; the unit alone without one.
HIGHEST_EXPOSURE = {"": 1.2, "metrics": 1.2, "redis-on-this-host": 1.1, "no-network": 0.5}

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0", "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)


def directives(path: Path, section: str) -> dict[str, str]:
    """A unit's section; of a directive given twice, the last one."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path, "utf-8")
    return dict(parser[section])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with an ExecStart that exists here: verify looks for the program."""
    for unit in (SERVICE, SOCKET, *TEMPLATES):
        text = unit.read_text("utf-8").replace("/usr/bin/callstated", sys.executable)
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@needs_systemd_analyze
@pytest.mark.parametrize("unit", [SERVICE.name, SOCKET.name, *(path.name for path in TEMPLATES)])
def test_systemd_has_nothing_to_say_about_a_unit(installed: Path, unit: str) -> None:
    done = run("systemd-analyze", "verify", "--man=no", str(installed / unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd_analyze
def test_verify_would_have_said_it(installed: Path) -> None:
    """An unknown directive is only a line on stderr, status 0: so the line is what the test above looks for."""
    service = installed / SERVICE.name
    service.write_text(service.read_text("utf-8").replace("NoNewPrivileges=", "NoNewPrivilege="))
    assert "NoNewPrivilege" in run("systemd-analyze", "verify", "--man=no", str(service)).stderr


@needs_systemd_analyze
@pytest.mark.parametrize("drop_in", ["", *(path.stem for path in DROP_INS)])
def test_the_service_is_little_exposed(installed: Path, drop_in: str) -> None:
    folder = installed / "callstate.service.d"
    folder.mkdir()
    if drop_in:
        shutil.copy(UNITS / "drop-ins" / f"{drop_in}.conf", folder)
    service = str(installed / SERVICE.name)
    verified = run("systemd-analyze", "verify", "--man=no", service)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", service)
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert overall is not None, done.stdout + done.stderr
    assert float(overall[1]) <= HIGHEST_EXPOSURE[drop_in], done.stdout


def test_the_templates_are_what_the_units_make_them() -> None:
    done = run(sys.executable, str(ROOT / "scripts" / "instance_units.py"), "--check")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unit", [SERVICE, SOCKET, *TEMPLATES, *DROP_INS], ids=lambda unit: unit.name)
def test_a_reason_stands_beside_each_directive(unit: Path) -> None:
    before = ""
    unexplained = []
    for line in unit.read_text("utf-8").splitlines():
        told_elsewhere = line.startswith(("Description=", "Documentation="))
        if re.match(r"[A-Z]\w*=", line) and not before.startswith("#") and not told_elsewhere:
            unexplained.append(line)
        before = line
    assert unexplained == []


def test_exits_that_a_restart_can_not_cure_prevent_one() -> None:
    prevented = directives(SERVICE, "Service")["RestartPreventExitStatus"].split()
    assert [int(status) for status in prevented] == [Exit.USAGE, Exit.ALREADY_RUNNING, Exit.JOURNAL]


def test_systemd_waits_longer_for_the_stop_than_the_stop_may_take() -> None:
    assert float(directives(SERVICE, "Service")["TimeoutStopSec"]) > 2 * Config().server.shutdown_flush_s


def test_the_password_arrives_under_the_name_the_daemon_looks_for() -> None:
    name, _, source = directives(SERVICE, "Service")["LoadCredential"].partition(":")
    assert name == CREDENTIAL_NAME
    assert not source.startswith("/")  # an absolute path that is missing would keep the service from starting


def test_a_reload_checks_what_the_service_reads_and_only_then_signals() -> None:
    lines = SERVICE.read_text("utf-8").splitlines()
    (started,) = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
    program, *arguments = started.split()
    reloads = [line.removeprefix("ExecReload=") for line in lines if line.startswith("ExecReload=")]
    assert reloads == [
        f"/usr/bin/env -u CREDENTIALS_DIRECTORY {program} --check {' '.join(arguments)}",
        "/bin/kill -HUP $MAINPID",
    ]


def test_directives_that_break_clients_are_absent() -> None:
    service, socket = directives(SERVICE, "Service"), directives(SOCKET, "Socket")
    assert not {"DynamicUser", "PrivateUsers", "RuntimeDirectory"} & service.keys()
    assert socket["SocketMode"] == "0660"
    assert socket["SocketGroup"] == service["Group"]
    assert socket["ListenStream"] == "/run/callstate/callstate.sock"


def test_the_reference_file_is_the_one_the_code_makes() -> None:
    assert (UNITS / "callstate.toml").read_text("utf-8") == reference_toml(), "`make reference` writes it anew"


def test_the_reference_file_is_what_the_service_reads(tmp_path: Path) -> None:
    _, *arguments = directives(SERVICE, "Service")["ExecStart"].split()
    assert arguments == ["--config", "/etc/callstate/callstate.toml"]
    shutil.copy(UNITS / "callstate.toml", tmp_path)
    config, _ = load_config(["--config", str(tmp_path / "callstate.toml")], {})
    assert config == Config(access=AccessConfig(share="group"))
    assert set(tomllib.loads(reference_toml())) == set(Config.__struct_fields__)


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None,
    reason="systemd-sysusers and systemd-tmpfiles are not installed",
)
@pytest.mark.skipif(os.getuid() != 0, reason="only root may give the directory to another user")
def test_user_and_directory_come_from_their_files(tmp_path: Path) -> None:
    for kind in ("sysusers", "tmpfiles"):
        folder = tmp_path / "usr" / "lib" / f"{kind}.d"
        folder.mkdir(parents=True)
        shutil.copy(UNITS / f"callstate.{kind}.conf", folder / "callstate.conf")
    for folder in ("etc", "run"):
        (tmp_path / folder).mkdir()
    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        done = run(*command, f"--root={tmp_path}")
        assert done.returncode == 0, done.stderr
    name, _, uid, gid, _, home, shell = (tmp_path / "etc/passwd").read_text().strip().split(":")
    assert (name, home, shell) == ("callstate", "/var/lib/callstate", "/usr/sbin/nologin")
    assert (tmp_path / "etc/group").read_text().startswith(f"callstate:x:{gid}:")
    made = (tmp_path / "run/callstate").stat()
    assert (made.st_mode & 0o7777, made.st_uid, made.st_gid) == (0o750, int(uid), int(gid))
