"""Who may do what, with real users at a real daemon: `access.share`, `access.allow`, `access.operators`."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from callstate_client.cli import main
from callstate_sidecar.config.load import load_config
from callstate_sidecar.config.resolve import resolve_socket
from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.users import ALICE, BOB, CAROL, TEAM, User, needs_root, why_no_namespaces
from support.wire import Refused, Wire

pytestmark = needs_root

FORBIDDEN = -32009
TURN = {"role": "user", "content": "a secret", "timestamp": "2026-05-01T12:00:01Z"}
NOBODY_ID = 65534


class Site:
    """A daemon that everybody can reach, and its users."""

    def __init__(self, *settings: str, kind: type[Daemon] = Daemon) -> None:
        self.stack = ExitStack()
        self.daemon = kind(*(word for each in settings for word in ("--set", each)))
        self.config = self.daemon.root / "config.toml"
        self.config.write_text("")
        self.daemon.args += ["--config", str(self.config)]
        self.stack.callback(self.daemon.close)
        self.daemon.start()
        self.open_up()

    def open_up(self) -> None:
        """Have others reach the socket; a new one is its user's alone."""
        self.daemon.root.chmod(0o755)
        self.daemon.socket.chmod(0o666)

    def user(
        self, uid: int, gid: int | None = None, groups: tuple[int, ...] = (), *, as_root: bool = False
    ) -> Wire:
        """A connection of a user."""
        user = self.stack.enter_context(User(uid, gid, groups, as_root=as_root))
        return self.stack.enter_context(user.wire(self.daemon.socket))

    def root(self) -> Wire:
        """A connection of root."""
        return self.stack.enter_context(Wire(self.daemon.socket))

    def restart(self) -> None:
        self.daemon.restart()
        self.open_up()

    def reload(self, text: str) -> None:
        """Have the daemon read another configuration, and return when it has."""
        self.config.write_text(text)
        before = len(self.logged("reloaded")) + len(self.logged("reload_failed"))
        self.daemon.signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while len(self.logged("reloaded")) + len(self.logged("reload_failed")) == before:
            assert time.monotonic() < deadline, self.daemon.log()
            time.sleep(0.01)  # a log has no event for its growth

    def logged(self, event: str) -> list[str]:
        """The lines of an event, without time and level."""
        lines = re.findall(rf"^\S+ [A-Z]+ +(.*) event={event}\b", self.daemon.log(), re.MULTILINE)
        return [str(line) for line in lines]


@pytest.fixture
def site() -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def one(*settings: str, kind: type[Daemon] = Daemon) -> Site:
        sites.append(Site(*settings, kind=kind))
        return sites[-1]

    yield one
    for each in sites:
        each.stack.close()


def save(wire: Wire, session_id: str, **params: Any) -> Any:
    session = {"id": session_id, "status": "active", "history": [TURN]}
    return wire.call("session.save", session=session, **params)


def refused(wire: Wire, method: str, **params: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        wire.call(method, **params)
    assert (caught.value.code, caught.value.kind) == (FORBIDDEN, "forbidden"), caught.value
    return caught.value


OF_ONE_SESSION: list[tuple[str, dict[str, Any]]] = [
    ("session.load", {}),
    ("session.heartbeat", {}),
    ("session.add_turn", {"turn": TURN}),
    ("session.amend_turn", {"set": {"content": "x"}}),
    ("session.record_interruption", {}),
    ("session.update", {"set": {"status": "on_hold"}}),
    ("session.release", {"epoch": 0}),
    ("session.claim", {"worker_id": "bobs"}),
    ("session.end", {}),
    ("session.delete", {}),
]


@pytest.mark.parametrize("share", ["uid", "group"])
def test_no_verb_reaches_a_session_of_another_user(site: Callable[..., Site], share: str) -> None:
    here = site(f"access.share={share}")
    alice, bob = here.user(ALICE), here.user(BOB)
    save(alice, "a")
    before = alice.call("session.load", session_id="a")
    for method, params in OF_ONE_SESSION:
        error = refused(bob, method, session_id="a", **params)
        assert error.data["who"] == f"uid {BOB}, gid {BOB}"
        assert error.data["what"] == f"{method} a"
        assert error.data["uid"] == BOB
        assert error.data["who"] in error.message
        assert error.data["what"] in error.message
    assert alice.call("session.load", session_id="a") == before
    for method, params in OF_ONE_SESSION:
        alice.call(method, session_id="a", **params)


@pytest.mark.parametrize("if_version", [None, 0, 1])
def test_a_save_over_anothers_session_says_nothing_of_it(site: Callable[..., Site], if_version: int | None) -> None:
    here = site("access.share=uid")
    alice, bob = here.user(ALICE), here.user(BOB)
    version = save(alice, "a")["version"]
    given = {} if if_version is None else {"if_version": if_version}
    error = refused(bob, "session.save", session={"id": "a"}, **given)
    assert error.data.keys() == {"kind", "retryable", "who", "what", "uid"}
    for word in (str(version), "active", "secret", str(ALICE)):
        assert word not in str(error)
    assert alice.call("session.load", session_id="a")["version"] == version


def test_lists_show_what_is_the_users(site: Callable[..., Site]) -> None:
    here = site("access.share=uid")
    alice, bob = here.user(ALICE), here.user(BOB)
    save(alice, "a")
    save(bob, "b")
    here.root().call("server.flush")
    for scope in ("host", "all"):
        for user, ids in ((alice, ["a"]), (bob, ["b"]), (here.root(), ["a", "b"])):
            assert user.call("session.list_active", scope=scope)["session_ids"] == ids
            listed = user.call("session.list", scope=scope)["sessions"]
            assert [each["session"]["id"] for each in listed] == ids
    listed = here.root().call("session.list", users=True)["sessions"]
    assert [(each["uid"], each["gid"]) for each in listed] == [(ALICE, ALICE), (BOB, BOB)]


def test_the_stores_sessions_are_their_creators(site: Callable[..., Site]) -> None:
    here = site("access.share=uid", "reaper.retention_s=0.1")
    alice, bob = here.user(ALICE), here.user(BOB)
    save(alice, "a")
    alice.call("session.end", session_id="a")
    root = here.root()
    while root.call("server.stats")["sessions"]:
        root.call("server.flush", timeout_s=0.05)
    refused(bob, "session.load", session_id="a")
    refused(bob, "session.save", session={"id": "a"}, if_version=0)
    assert bob.call("session.list", scope="all")["sessions"] == []
    assert bob.call("session.list_active", scope="all")["session_ids"] == []
    assert alice.call("session.load", session_id="a")["session"]["history"] == [TURN]
    assert len(alice.call("session.list", scope="all")["sessions"]) == 1


def test_a_heartbeat_of_many_passes_over_those_of_others(site: Callable[..., Site]) -> None:
    here = site("access.share=uid")
    alice, bob = here.user(ALICE), here.user(BOB)
    save(alice, "a")
    save(bob, "b")
    assert bob.call("session.heartbeat", session_ids=["a", "b", "c"]) == {
        "missing": ["c"], "ended": [], "fenced": ["a"],
    }  # fmt: skip


def test_an_orphan_is_claimed_by_its_own_user(site: Callable[..., Site]) -> None:
    here = site("access.share=uid")
    alice, bob = here.user(ALICE), here.user(BOB)
    save(alice, "a")
    alice.call(
        "session.release", session_id="a", epoch=alice.call("session.claim", session_id="a", worker_id="w")["epoch"]
    )
    assert bob.call("session.claim_next", worker_id="bobs") is None
    assert alice.call("session.claim_next", worker_id="alices")["session"]["id"] == "a"


def test_a_subscriber_hears_of_what_it_may_see(site: Callable[..., Site]) -> None:
    here = site("access.share=uid")
    alice, bob, root = here.user(ALICE), here.user(BOB), here.root()
    stream = root.call("server.ping") or root.call("events.subscribe", types=["created"])
    bob.call("events.subscribe", types=["created"])
    save(alice, "a")
    save(bob, "b")
    assert bob.reply()["params"]["session_id"] == "b"
    assert [root.reply()["params"]["session_id"] for _ in range(2)] == ["a", "b"]
    later = here.user(BOB)
    later.call("events.subscribe", types=["created"], since={"stream": stream["stream"], "seq": stream["seq"]})
    assert later.reply()["params"]["session_id"] == "b"


def test_a_group_shares_what_its_members_create(site: Callable[..., Site]) -> None:
    here = site("access.share=group")
    alice, bob, carol = here.user(ALICE, TEAM), here.user(BOB, BOB, (TEAM,)), here.user(CAROL)
    save(alice, "a")
    assert bob.call("session.load", session_id="a")["session"]["history"] == [TURN]
    bob.call("session.add_turn", session_id="a", turn=TURN)
    save(bob, "b")  # of bob's primary group, in which alice isn't
    refused(alice, "session.load", session_id="b")
    refused(carol, "session.load", session_id="a")


def test_operators_may_and_it_is_noted(site: Callable[..., Site]) -> None:
    here = site("access.share=uid", f"access.operators={CAROL}, @{TEAM}")
    alice = here.user(ALICE)
    for number, operator in enumerate((here.user(CAROL), here.user(BOB, BOB, (TEAM,)), here.root())):
        session_id = f"a{number}"
        save(alice, session_id)
        operator.call("session.load", session_id=session_id)
        operator.call("session.claim", session_id=session_id, worker_id="w", steal=True)
        operator.call("session.end", session_id=session_id)
        operator.call("server.drain", on=False)
        operator.call("server.flush")
        operator.call("server.erase", session_id=session_id)
    lines = here.logged("operator_action")
    for who, session_id in ((f"uid {CAROL}", "a0"), (f"uid {BOB}", "a1"), ("uid 0", "a2")):
        ours = [line for line in lines if who in line]
        for what in (
            f"session.load {session_id}", f"session.claim {session_id}", f"session.end {session_id}",
            f"server.erase {session_id}", "server.drain", "server.flush",
        ):  # fmt: skip
            assert any(line.endswith(what) for line in ours), (who, what, ours)
    assert "secret" not in here.daemon.log()


OPERATORS_ALONE: list[tuple[str, dict[str, Any]]] = [
    ("server.drain", {"on": True}),
    ("server.flush", {}),
    ("server.erase", {"session_id": "a"}),
    ("server.check", {}),
    ("quarantine.list", {}),
    ("quarantine.show", {"session_id": "a"}),
    ("quarantine.retry", {}),
    ("quarantine.drop", {"session_id": "a"}),
    ("session.claim", {"session_id": "a", "worker_id": "w", "steal": True}),
]


@pytest.mark.parametrize("setting", ["access.share=uid", "access.share=group", f"access.operators={CAROL}"])
def test_what_is_an_operators_is_refused_to_others(site: Callable[..., Site], setting: str) -> None:
    here = site(setting)
    alice = here.user(ALICE)
    save(alice, "a")
    for method, params in OPERATORS_ALONE:
        assert refused(alice, method, **params).message.endswith("that is for operators")
    assert alice.call("server.flush", session_ids=["a"])["unflushed"] == 0
    assert not here.root().call("server.stats")["draining"]


def test_refusals_are_logged_once_a_minute_for_each_user(site: Callable[..., Site]) -> None:
    here = site("access.share=uid")
    alice, bob = here.user(ALICE), here.user(BOB)
    for _ in range(5):
        refused(alice, "server.drain", on=True)
        refused(bob, "server.drain", on=True)
    lines = here.logged("access_refused")
    assert [line.partition(":")[0] for line in lines] == [
        f"uid {uid}, gid {uid} may not server.drain" for uid in (ALICE, BOB)
    ]  # fmt: skip


def test_by_default_everything_is_everybodys(site: Callable[..., Site]) -> None:
    here = site()
    alice, bob = here.user(ALICE), here.user(BOB)
    save(alice, "a")
    for method, params in OF_ONE_SESSION:
        bob.call(method, session_id="a", **params)
    bob.call("server.drain", on=True)
    bob.call("server.drain", on=False)
    assert "access" not in bob.call("server.info")
    assert any(f"uid {BOB}" in line for line in here.logged("operator_action"))


# -- connecting -----------------------------------------------------------------------------------------------


def test_who_is_not_allowed_is_told_so_and_closed(site: Callable[..., Site]) -> None:
    here = site(f"access.allow={ALICE}, @{TEAM}")
    here.user(ALICE).call("server.ping")
    here.user(BOB, BOB, (TEAM,)).call("server.ping")
    here.user(CAROL, TEAM).call("server.ping")
    here.root().call("server.ping")
    carol = here.user(CAROL)
    error = carol.reply()["error"]
    assert error["code"] == FORBIDDEN
    assert error["data"]["who"] == f"uid {CAROL}, gid {CAROL}"
    assert error["data"]["what"] == "connect"
    assert carol.line() == b""


def test_an_operator_is_always_allowed(site: Callable[..., Site]) -> None:
    here = site(f"access.allow={ALICE}", f"access.operators={CAROL}")
    here.user(CAROL).call("server.drain", on=False)


def test_a_reload_applies_it_to_those_who_are_connected(site: Callable[..., Site]) -> None:
    here = site()
    alice, bob = here.user(ALICE), here.user(BOB)
    save(alice, "a")
    bob.call("session.load", session_id="a")
    here.reload('[access]\nshare = "uid"\n')
    refused(bob, "session.load", session_id="a")
    here.reload(f'[access]\nshare = "uid"\noperators = "{BOB}"\n')
    bob.call("session.load", session_id="a")
    here.reload(f'[access]\nallow = "{ALICE}"\n')
    assert bob.reply()["error"]["data"]["what"] == "connect"
    assert bob.line() == b""
    alice.call("session.load", session_id="a")
    assert not here.logged("restart_needed")


def test_a_reload_with_an_unknown_user_changes_nothing(site: Callable[..., Site]) -> None:
    here = site()
    here.reload('[access]\nallow = "no-such-user"\n')
    (line,) = here.logged("reload_failed")
    assert "access.allow: no such user: 'no-such-user'; a group is written @NAME" in line
    here.user(BOB).call("server.ping")
    here.daemon.log_path.write_text("")  # the fault was meant


# -- what survives ----------------------------------------------------------------------------------------------


def test_a_restart_and_a_crash_keep_whose_a_session_is(site: Callable[..., Site]) -> None:
    here = site("access.share=uid")
    save(here.user(ALICE), "a")
    here.restart()  # a checkpoint
    refused(here.user(BOB), "session.load", session_id="a")
    save(here.user(ALICE), "b")
    here.daemon.kill()  # the log
    here.daemon.start()
    here.open_up()
    for session_id in ("a", "b"):
        refused(here.user(BOB), "session.load", session_id=session_id)
        here.user(ALICE).call("session.load", session_id=session_id)


@pytest.mark.parametrize("share", ["uid", "all"])
def test_an_export_and_an_import_keep_whose_a_session_is(
    site: Callable[..., Site], tmp_path: Path, share: str
) -> None:
    here, there = site(f"access.share={share}"), site("access.share=uid")
    save(here.user(ALICE), "a")
    alone, live = tmp_path / "journal.ndjson", tmp_path / "live.ndjson"
    assert main(["--socket", str(here.daemon.socket), "export", "-o", str(live)]) == 0
    command = [sys.executable, "-m", "callstate_sidecar", "journal", "export", str(here.daemon.state_dir)]
    alone.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    for path in (live, alone):
        assert main(["--socket", str(there.daemon.socket), "import", str(path)]) == 0
        refused(there.user(BOB), "session.load", session_id="a")
        there.user(ALICE).call("session.delete", session_id="a")


def test_only_an_operator_creates_sessions_for_others(site: Callable[..., Site]) -> None:
    for here in (site(), site("access.share=uid")):
        user = {"uid": BOB, "gid": BOB}
        error = refused(here.user(ALICE), "session.save", session={"id": "a"}, user=user)
        assert error.data["what"] == "session.save with user"
        save(here.root(), "a", user=user)
        listed = here.root().call("session.list", users=True)["sessions"]
        assert [(each["uid"], each["gid"]) for each in listed] == [(BOB, BOB)]


def test_a_worker_id_belongs_to_who_registered_it(site: Callable[..., Site]) -> None:
    here = site("access.share=uid", "reaper.reconnect_grace_s=0.1")
    process = here.stack.enter_context(User(ALICE))
    alice = process.wire(here.daemon.socket)
    alice.call("worker.register", worker_id="w1")
    save(alice, "a")
    bob = here.user(BOB)
    for method in ("worker.register", "session.claim_next"):
        error = refused(bob, method, worker_id="w1")
        assert error.data["what"] == f"{method} as w1"
    save(bob, "b")
    refused(bob, "session.claim", session_id="b", worker_id="w1")
    assert bob.call("worker.list")["workers"] == []
    assert len(alice.call("worker.list")["workers"]) == 1
    here.restart()
    refused(here.user(BOB), "worker.register", worker_id="w1")
    alice.close()
    alice = here.stack.enter_context(process.wire(here.daemon.socket))
    alice.call("worker.register", worker_id="w1")
    alice.call("session.end", session_id="a")


# -- user namespaces --------------------------------------------------------------------------------------------


def test_root_of_a_namespace_is_the_user_outside(site: Callable[..., Site]) -> None:
    if reason := why_no_namespaces():
        pytest.skip(reason)
    here = site("access.share=uid")
    pretender = here.user(ALICE, as_root=True)
    refused(pretender, "server.drain", on=True)
    save(pretender, "a")
    here.user(ALICE).call("session.load", session_id="a")


class Namespaced(Daemon):
    """A daemon in a user namespace in which only root has a mapping."""

    def command(self) -> list[str]:
        return ["unshare", "--user", "--map-root-user", *super().command()]


def test_users_without_a_mapping_are_not_taken_for_one_user(site: Callable[..., Site]) -> None:
    if shutil.which("unshare") is None or why_no_namespaces():
        pytest.skip(why_no_namespaces() or "there is no unshare(1)")
    here = site("access.share=uid", kind=Namespaced)
    alice, bob, nobody = here.user(ALICE), here.user(BOB), here.user(NOBODY_ID)
    save(here.root(), "r")
    for wire in (alice, bob, nobody):
        assert wire.call("server.info")["access"] == {"share": "uid", "uid": None, "operator": False}
        refused(wire, "session.save", session={"id": "x"})
        refused(wire, "session.load", session_id="r")
        refused(wire, "server.drain", on=True)
    here.reload('[access]\nallow = "root"\n')
    assert alice.reply()["error"]["data"]["who"] == "uid unknown, gid unknown"


def test_users_without_a_mapping_are_served_as_before_by_default(site: Callable[..., Site]) -> None:
    if shutil.which("unshare") is None or why_no_namespaces():
        pytest.skip(why_no_namespaces() or "there is no unshare(1)")
    here = site(kind=Namespaced)
    save(here.user(ALICE), "a")
    here.user(BOB).call("session.add_turn", session_id="a", turn=TURN)


def test_nobody_owns_nothing(site: Callable[..., Site]) -> None:
    here = site("access.share=uid")
    nobody = here.user(NOBODY_ID)
    error = refused(nobody, "session.save", session={"id": "n"})
    assert error.data["who"] == "uid unknown, gid unknown"
    assert "uid" not in error.data
    save(here.user(ALICE), "a")
    refused(nobody, "session.load", session_id="a")
    assert nobody.call("session.list")["sessions"] == []


def test_the_settings_are_told(site: Callable[..., Site]) -> None:
    here = site("access.share=group")
    assert here.user(ALICE).call("server.info")["access"] == {"share": "group", "uid": ALICE, "operator": False}
    assert here.root().call("server.info")["access"] == {"share": "group", "uid": 0, "operator": True}


# -- never on TCP -----------------------------------------------------------------------------------------------


ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "callstate_sidecar", *sys.argv[2:]])
"""


def test_sessions_are_never_served_on_tcp(tmp_path: Path) -> None:
    """Not even on a socket that the service manager passes; what is configured is a path whatever it looks like."""
    with socket.socket(socket.AF_INET) as tcp:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        fd = tcp.fileno()
        command = [sys.executable, "-c", ACTIVATE, str(fd), "--state-dir", str(tmp_path / "state")]
        done = subprocess.run(command, pass_fds=[fd], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == Exit.USAGE
        assert (
            f"('127.0.0.1', {tcp.getsockname()[1]}): sessions are served on Unix stream sockets only" in done.stderr
        )
    for address in ("127.0.0.1:7000", "tcp://0.0.0.0:7000", "[::]:7000"):
        config, _ = load_config(["--socket", address], {})
        assert resolve_socket(config, {}) == Path(address).absolute()
