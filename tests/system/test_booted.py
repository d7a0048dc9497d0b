"""The units under a systemd that has booted: installed from the wheel by `callstate install-units`, and used.

One boot for all of these. Each test leaves the service running with the configuration that it was installed with.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.booted import LOOK_EVERY_S, Booted, NoContainerError, system_python, why_not
from support.redis_server import binaries

ROOT = Path(__file__).parents[2]
CALLSTATE = "/opt/callstate/bin/callstate"
PYTHON = "/opt/callstate/bin/python"
VALKEY = "/opt/valkey-server"
CONFIG = "/etc/callstate/callstate.toml"
SOCKET = "/run/callstate/callstate.sock"
CREDENTIAL = "/etc/credstore/callstate.redis-password"
SERVICE = "callstate.service"
PATIENCE_S = 30.0
STOP_TIMEOUT_S = 30.0  # TimeoutStopSec= of the unit

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.skipif(bool(why_not()), reason=why_not())]

USERS = """\
u worker - "May use the socket" / /bin/sh
m worker callstate
u outsider - "May not" / /bin/sh
"""

# Holds calls until its input ends. Prints a line when it has begun, and a JSON document at the end.
WORKER = """
import asyncio, json, sys
from callstate_client import SessionState, connect

async def talk(store, number, stop):
    state = SessionState(id=f"{sys.argv[1]}-{number}", provider="test", from_="+15550100", to="+15550101")
    said = 0
    async with store.hold(state, end_on=()) as call:
        while not (said and stop.is_set()):
            await call.add_turn("user", f"turn {said}", duration_ms=100)
            said += 1
            await asyncio.sleep(0.005)
        record = await store.get(call.id)
    return said, [turn.content for turn in record.state.history] == [f"turn {n}" for n in range(said)]

async def main():
    stop = asyncio.Event()
    async with connect(timeout_s=20) as store:
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(talk(store, number, stop)) for number in range(int(sys.argv[2]))]
            print("begun", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            stop.set()
        results = [call.result() for call in calls]
    print(json.dumps({"said": sum(said for said, _ in results), "intact": all(intact for _, intact in results)}))

asyncio.run(main())
"""

# Calls examples/blocking_worker.py, says its arguments, and prints what it hears until the line is closed.
CALLER = """
import socket, sys, time

until = time.monotonic() + 30
while True:
    try:
        line = socket.create_connection(("127.0.0.1", 8010)).makefile("rw")
        break
    except ConnectionRefusedError:
        assert time.monotonic() < until
        time.sleep(0.05)
print("call-1 +15550100 +15550199", *sys.argv[1:], sep="\\n", file=line, flush=True)
for heard in line:
    print(heard, end="", flush=True)
"""


@contextmanager
def building(python: str, folder: Path) -> Iterator[Callable[[], None]]:
    """Build the wheel, and fetch all that it needs: the container has no network. Yields what waits for the end."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    process = subprocess.Popen(
        [*pip, "wheel", "--wheel-dir", str(folder), f"{ROOT}[redis,sidecar,cli]"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ,
    )  # fmt: skip

    def wait() -> None:
        said = process.communicate(timeout=240)[0]
        assert process.returncode == 0, said

    try:
        yield wait
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A booted system with callstate in /opt/callstate, and its service running."""
    python = system_python()
    wheels = tmp_path_factory.mktemp("wheels")
    with building(python, wheels) as built:
        try:
            booted = Booted({wheels: "/opt/wheels", binaries()["valkey"]: VALKEY})
        except NoContainerError as error:
            pytest.skip(f"no container can be started here: {error}")
        try:
            booted.write("/etc/sysusers.d/test.conf", USERS)
            booted.write("/opt/worker.py", WORKER)
            booted.run(python, "-m", "venv", "/opt/callstate")
            built()
            offline = ("--no-index", "--find-links=/opt/wheels")
            booted.run("/opt/callstate/bin/pip", "install", "--quiet", *offline, "callstate[redis,sidecar,cli]")
            booted.run(CALLSTATE, "install-units")
            booted.run("systemd-sysusers")
            booted.run("systemctl", "enable", "--now", "callstate.socket", SERVICE)
            yield booted
        finally:
            booted.close()


def eventually(look: Callable[[], object]) -> None:
    """Wait until `look` returns something true: what is waited for is in another system."""
    until = time.monotonic() + PATIENCE_S
    while not look():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(LOOK_EVERY_S)


def ask(system: Booted, command: str, *words: str, user: str = "worker") -> dict[str, object]:
    """The JSON document that a command of callstate prints."""
    document = json.loads(system.run(CALLSTATE, command, "--json", *words, user=user).stdout)
    assert isinstance(document, dict)
    return document


def answers(system: Booted) -> bool:
    """Whether the daemon answers."""
    return system.run(CALLSTATE, "ping", user="worker", check=False).returncode == 0


@contextmanager
def worker(system: Booted, name: str, calls: int) -> Iterator[Callable[[], dict[str, object]]]:
    """A worker that holds calls and adds turns; yields what ends it and returns its report."""
    process = subprocess.Popen(
        system.command(PYTHON, "/opt/worker.py", name, str(calls), user="worker"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), process.communicate()[1]

        def end() -> dict[str, object]:
            out, err = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, err
            report = json.loads(out)
            assert isinstance(report, dict)
            return report

        yield end
    finally:
        process.kill()
        process.communicate()


@contextmanager
def configured(system: Booted, text: str) -> Iterator[None]:
    """Another configuration, in force; afterwards the one before."""
    before = system.read(CONFIG)
    system.write(CONFIG, text)
    system.run("systemctl", "restart", SERVICE)
    try:
        yield
    finally:
        system.write(CONFIG, before)
        system.run("systemctl", "restart", SERVICE)


@contextmanager
def redis(system: Booted, password: str) -> Iterator[None]:
    """A Redis at localhost that asks for a password."""
    options = ["--port", "6379", "--requirepass", password, "--save", ""]
    system.run("systemd-run", "--unit=redis", "--collect", VALKEY, *options)
    eventually(lambda: "eady to accept connections" in system.run("journalctl", "--unit=redis").stdout)
    try:
        yield
    finally:
        system.run("systemctl", "stop", "redis")


# -- installation ---------------------------------------------------------------------------------------------


def test_the_units_are_installed_once_and_systemd_has_nothing_to_say(system: Booted) -> None:
    said = ask(system, "install-units", user="root")["files"]
    assert isinstance(said, list)
    assert {step["outcome"] for step in said} == {"unchanged", "keep"}
    units = [step["path"] for step in said if step["path"].endswith((".service", ".socket"))]
    assert len(units) == 4
    verified = system.run("systemd-analyze", "verify", "--man=no", *units)
    assert verified.stderr == ""
    assert system.show(SERVICE, "ExecStart").split(" ;")[0].endswith("path=/opt/callstate/bin/callstated")
    assert system.run("stat", "--format=%a %U %G", "/run/callstate", SOCKET).stdout.splitlines() == [
        "750 callstate callstate",
        "660 callstate callstate",
    ]


def test_removal_leaves_state_and_configuration(system: Booted) -> None:
    try:
        said = system.run(CALLSTATE, "install-units", "--remove").stdout
        assert "left: /var/lib/callstate (journal, SQLite file and host id)" in said
        assert system.run("systemctl", "is-active", SERVICE, "callstate.socket", check=False).stdout.split() == [
            "inactive",
            "inactive",
        ]
        assert system.show(SERVICE, "LoadState") == "not-found"
        assert system.run("ls", "/var/lib/callstate/journal").stdout
        assert system.read(CONFIG)
    finally:
        system.run(CALLSTATE, "install-units")
        system.run("systemctl", "enable", "--now", "callstate.socket", SERVICE)
    assert answers(system)


# -- the socket -----------------------------------------------------------------------------------------------


def test_a_connection_starts_the_daemon(system: Booted) -> None:
    # stopped by its own name, the socket goes on listening
    system.run("systemctl", "stop", SERVICE)
    assert system.run("systemctl", "is-active", SERVICE, "callstate.socket", check=False).stdout.split() == [
        "inactive",
        "active",
    ]
    eventually(lambda: answers(system))  # the first may not wait for as long as the start takes
    assert system.show(SERVICE, "ActiveState") == "active"


def test_only_members_of_the_group_are_served(system: Booted) -> None:
    assert answers(system)
    refused = system.run(CALLSTATE, "--socket", SOCKET, "ping", user="outsider", check=False)
    assert refused.returncode == 3
    assert "Permission denied" in refused.stderr or "permission" in refused.stderr, refused.stderr
    for path in ("/var/lib/callstate", "/var/lib/callstate/journal"):
        assert system.run("ls", path, user="worker", check=False).returncode != 0


# -- what systemd sees ----------------------------------------------------------------------------------------


def test_the_status_shows_live_figures(system: Booted) -> None:
    assert system.show(SERVICE, "ActiveState") == "active"  # by READY=1: the unit is Type=notify
    with worker(system, "status", 3) as end:
        eventually(lambda: "3 calls, 1 worker; store up" in system.show(SERVICE, "StatusText"))
        assert "journal ok" in system.show(SERVICE, "StatusText")
        assert end()["intact"] is True


def test_a_daemon_that_hangs_is_restarted_by_the_watchdog(system: Booted) -> None:
    with system.drop_in(SERVICE, "[Service]\nWatchdogSec=1\n"):
        system.run("systemctl", "restart", SERVICE)
        before, since = system.show(SERVICE, "MainPID"), system.cursor()
        system.run("kill", "-STOP", before)
        eventually(lambda: system.show(SERVICE, "MainPID") not in ("0", before))
        assert "Watchdog timeout" in system.log(SERVICE, since)
        eventually(lambda: answers(system))  # as after a crash
    system.run("systemctl", "restart", SERVICE)


def test_a_daemon_that_crashes_is_restarted_with_its_calls(system: Booted) -> None:
    with worker(system, "crash", 2) as end:
        before = system.show(SERVICE, "MainPID")
        system.run("kill", "-KILL", before)
        eventually(lambda: system.show(SERVICE, "MainPID") not in ("0", before))
        eventually(lambda: answers(system))  # the first may not wait for as long as the start takes
        assert end()["intact"] is True


def test_a_restart_under_load_fails_nobody(system: Booted) -> None:
    inode = system.run("stat", "--format=%i", SOCKET).stdout
    with worker(system, "load", 20) as end:
        for _ in range(2):
            system.run("systemctl", "restart", SERVICE)
            # the next one comes when the load is there again
            eventually(lambda: _requests(system, "session.add_turn") > 200)
        report = end()  # a turn that failed would have ended the worker with its error
    assert report["intact"] is True
    assert isinstance(report["said"], int)
    assert report["said"] > 400
    assert system.run("stat", "--format=%i", SOCKET).stdout == inode, "the socket outlives the daemon"


def _requests(system: Booted, method: str) -> int:
    requests = ask(system, "stats")["requests"]
    assert isinstance(requests, dict)
    count = requests.get(method, 0)
    assert isinstance(count, int)
    return count


# -- reload ---------------------------------------------------------------------------------------------------


def test_a_reload_of_a_broken_file_fails_and_changes_nothing(system: Booted) -> None:
    eventually(lambda: system.show(SERVICE, "StatusText").startswith("0 calls, 0 workers; store up;"))
    before, since = system.read(CONFIG), system.cursor()
    pid, status = system.show(SERVICE, "MainPID"), system.show(SERVICE, "StatusText")
    try:
        system.write(CONFIG, "[limits]\nsessions = 'many'\n")
        assert system.run("systemctl", "reload", SERVICE, check=False).returncode != 0
    finally:
        system.write(CONFIG, before)
    log = system.log(SERVICE, since)
    assert "limits.sessions: expected a whole number of sessions" in log
    assert "reloaded" not in log
    assert system.show(SERVICE, "MainPID") == pid
    assert system.show(SERVICE, "StatusText") == status
    assert system.show(SERVICE, "ActiveState") == "active"
    assert answers(system)


def test_a_reload_applies_what_it_can_and_names_what_needs_a_restart(system: Booted) -> None:
    before, since = system.read(CONFIG), system.cursor()
    pid = system.show(SERVICE, "MainPID")
    try:
        system.write(CONFIG, "[store]\nttl_s = 1000\n[limits]\nsessions = 1\n")
        system.run("systemctl", "reload", SERVICE)
        eventually(lambda: "a restart is needed for store.ttl_s" in system.show(SERVICE, "StatusText"))
        log = system.log(SERVICE, since)
        assert re.search(r"reloaded: .*limits\.sessions.* applied", log)
        assert "a restart is needed for store.ttl_s" in log
    finally:
        system.write(CONFIG, before)
        system.run("systemctl", "reload", SERVICE)
    eventually(lambda: "restart" not in system.show(SERVICE, "StatusText"))
    assert system.show(SERVICE, "MainPID") == pid


# -- Redis ----------------------------------------------------------------------------------------------------


def test_the_password_of_redis_is_a_credential(system: Booted) -> None:
    password = "correct-horse-battery"  # noqa: S105
    system.write(CREDENTIAL, f"{password}\n", mode=0o600)
    try:
        with redis(system, password), configured(system, '[store]\nurl = "redis://127.0.0.1:6379/0"\n'):
            assert ask(system, "info")["store"] == "redis"
            with worker(system, "secret", 1) as end:
                assert end()["intact"] is True
            assert ask(system, "stats")["store"] == "up"
            pid = system.show(SERVICE, "MainPID")
            system.run("systemctl", "reload", SERVICE)  # whose check is not given the password
            seen = system.run("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline").stdout
            assert password not in seen
            refused = system.run("cat", f"/run/credentials/{SERVICE}/redis-password", user="worker", check=False)
            assert refused.returncode != 0
    finally:
        system.run("rm", CREDENTIAL)
        system.run("systemctl", "restart", SERVICE)


def test_a_stop_without_redis_ends_in_time_and_loses_nothing(system: Booted) -> None:
    with configured(system, '[store]\nurl = "redis://127.0.0.1:6379/0"\n'):
        with worker(system, "outage", 2) as end:
            assert end()["intact"] is True
        since, started = system.cursor(), time.monotonic()
        system.run("systemctl", "stop", SERVICE)
        assert time.monotonic() - started < STOP_TIMEOUT_S
        assert system.show(SERVICE, "Result") == "success"
        assert "sessions not yet in the store; the journal has them" in system.log(SERVICE, since)
        eventually(lambda: answers(system))  # this starts it again
        assert "turn 0" in system.run(CALLSTATE, "show", "--all", "outage-0", user="worker").stdout


def test_a_stop_while_redis_hangs_ends_in_time_and_loses_nothing(system: Booted) -> None:
    """Its connections stand, and nothing answers: each request has to time out."""
    with redis(system, "password"), configured(system, '[store]\nurl = "redis://:password@127.0.0.1/0"\n'):
        eventually(lambda: ask(system, "stats")["store"] == "up")
        system.run("systemctl", "kill", "--signal=STOP", "redis")
        with worker(system, "hung", 2) as end:
            assert end()["intact"] is True
        since, started = system.cursor(), time.monotonic()
        system.run("systemctl", "stop", SERVICE)
        assert time.monotonic() - started < STOP_TIMEOUT_S
        assert system.show(SERVICE, "Result") == "success"
        assert "sessions not yet in the store; the journal has them" in system.log(SERVICE, since)
        system.run("systemctl", "kill", "--signal=CONT", "redis")
        eventually(lambda: answers(system))  # this starts it again
        assert "turn 0" in system.run(CALLSTATE, "show", "--all", "hung-0", user="worker").stdout
        eventually(lambda: ask(system, "stats")["dirty"] == 0)


# -- sandboxes ------------------------------------------------------------------------------------------------


def exposure(system: Booted) -> float:
    """What systemd makes of the sandbox of the service as it runs."""
    said = system.run("systemd-analyze", "security", "--no-pager", SERVICE).stdout
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert overall is not None, said
    return float(overall[1])


def test_the_sandbox_can_be_tightened_and_the_daemon_serves_in_it(system: Booted) -> None:
    assert exposure(system) <= 1.2
    try:
        system.run(CALLSTATE, "install-units", "--drop-in", "no-network")
        system.run("systemctl", "restart", SERVICE)
        assert exposure(system) <= 0.5
        with worker(system, "sandbox", 1) as end:
            assert end()["intact"] is True
        # peer credentials and pidfds work: a worker's death is seen by its process
        assert ask(system, "info")["liveness"] == "process"
    finally:
        system.run("rm", "--recursive", "--force", "/etc/systemd/system/callstate.service.d")
        system.run("systemctl", "daemon-reload")
        system.run("systemctl", "restart", SERVICE)


# -- instances ------------------------------------------------------------------------------------------------


def test_instances_have_sockets_and_states_of_their_own(system: Booted) -> None:
    units = ("callstate@staging.socket", "callstate@staging.service")
    system.run("cp", CONFIG, "/etc/callstate/staging.toml")
    try:
        system.run("systemctl", "enable", "--now", *units)
        staging = ask(system, "info", "--socket", "/run/callstate/staging.sock")
        assert staging["host_id"] != ask(system, "info")["host_id"]
        assert "journal" in system.run("ls", "/var/lib/callstate-staging").stdout.split()
    finally:
        system.run("systemctl", "disable", "--now", *units)


# -- a worker's own unit --------------------------------------------------------------------------------------


@pytest.fixture
def voice_worker(system: Booted) -> Iterator[str]:
    """examples/voice-worker.service, installed; its program is the worker with threads."""
    unit = (ROOT / "examples" / "voice-worker.service").read_text("utf-8")
    system.write("/etc/systemd/system/voice-worker.service", unit.replace("/opt/voice/bin/python", PYTHON))
    system.write("/opt/voice/worker.py", (ROOT / "examples" / "blocking_worker.py").read_text("utf-8"))
    system.write("/opt/caller.py", CALLER)
    system.run("systemctl", "daemon-reload")
    yield "voice-worker.service"
    system.run("systemctl", "stop", "voice-worker.service")
    system.run("rm", "/etc/systemd/system/voice-worker.service")
    system.run("systemctl", "daemon-reload")


def test_a_worker_with_a_unit_of_its_own_outlives_the_daemon_and_its_calls_outlive_it(
    system: Booted, voice_worker: str
) -> None:
    system.run("systemctl", "stop", SERVICE)
    system.run("systemctl", "start", voice_worker)
    first = subprocess.Popen(
        system.command(PYTHON, "/opt/caller.py", "a pizza"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "What would you like?\n"  # the worker's connection has started the daemon
    assert first.stdout.readline() == "Anything else?\n"
    worker_pid = system.show(voice_worker, "MainPID")
    system.run("systemctl", "restart", SERVICE)
    eventually(lambda: answers(system))
    assert system.show(voice_worker, "MainPID") == worker_pid
    system.run("systemctl", "kill", "--signal=SIGKILL", voice_worker)
    assert first.communicate(timeout=PATIENCE_S)[0] == ""
    second = system.run(PYTHON, "/opt/caller.py", "no").stdout.splitlines()
    assert second == ["Sorry, we were cut off. Anything else?", "So that is a pizza. Goodbye!"]
    assert system.show(voice_worker, "MainPID") != worker_pid
