from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from callstate_client import NoDaemonError, connect
from callstate_client.transport.discovery import MAX_PATH_BYTES, Candidate, candidates, describe, no_daemon, refusal

UID = os.getuid()


def paths(**environ: str) -> list[str]:
    return [place.path for place in candidates(None, environ, 1000)]


def test_an_explicit_path_is_the_only_one_tried() -> None:
    environ = {"CALLSTATE_SOCKET": "/e", "XDG_RUNTIME_DIR": "/x"}
    assert [place.path for place in candidates(Path("/a"), environ, 1)] == ["/a"]
    assert paths(**environ) == ["/e"]


def test_the_order_of_the_other_places() -> None:
    system = ["/run/callstate/callstate.sock", "/tmp/callstate-1000/callstate.sock"]
    assert paths(XDG_RUNTIME_DIR="/x") == ["/x/callstate.sock", *system]
    assert paths(XDG_RUNTIME_DIR="", CALLSTATE_SOCKET="") == system


def test_a_path_too_long_is_refused_by_name() -> None:
    fits, long = "/" + "x" * (MAX_PATH_BYTES - 1), "/" + "ü" * (MAX_PATH_BYTES // 2)
    assert refusal(Candidate(fits, ""), UID) is None
    refused = refusal(Candidate(long + "x", ""), UID)
    assert refused is not None
    assert refused.hopeless
    assert str(MAX_PATH_BYTES) in refused.why
    assert refused.path == long + "x"


def private(directory: Path) -> Candidate:
    return Candidate(str(directory / "callstate.sock"), "", private=True)


def test_the_directory_in_tmp_must_be_ours_alone(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir(mode=0o700)
    assert refusal(private(ours), UID) is None
    assert "0700" in (refusal(private(ours), UID + 1) or pytest.fail("another's directory was taken")).why
    ours.chmod(0o755)
    assert refusal(private(ours), UID) is not None
    ours.chmod(0o700)
    (tmp_path / "link").symlink_to(ours)
    assert refusal(private(tmp_path / "link"), UID) is not None
    absent = refusal(private(tmp_path / "none"), UID)
    assert absent is not None
    assert absent.why == "absent"


@pytest.mark.parametrize(
    ("number", "why", "final"),
    [
        (errno.ENOENT, "absent", False),
        (errno.ENOTDIR, "absent", False),
        (errno.ECONNREFUSED, "nobody listens", True),
        (errno.EACCES, "permission denied: join group callstate", True),
        (errno.ENOTSOCK, os.strerror(errno.ENOTSOCK), True),
    ],
)
def test_why_it_failed(tmp_path: Path, number: int, why: str, final: bool) -> None:
    tried = describe(Candidate(str(tmp_path / "s"), ""), OSError(number, os.strerror(number)))
    assert (tried.why, tried.final) == (why, final)


def test_a_socket_in_an_inaccessible_directory_may_still_appear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root every directory can be looked into
    tried = describe(Candidate("/run/callstate/s", ""), PermissionError(errno.EACCES, "denied"))
    assert not tried.final


def test_the_error_lists_each_path() -> None:
    tried = [describe(Candidate(f"/{n}", ""), FileNotFoundError(errno.ENOENT, "")) for n in "ab"]
    assert str(no_daemon(tried)) == (
        "no callstated found, and CALLSTATE_SOCKET is not set; tried\n  /a: absent\n  /b: absent"
    )


def test_the_error_for_a_path_that_was_given_has_no_hint() -> None:
    tried = [describe(Candidate("/a", ""), FileNotFoundError(errno.ENOENT, ""))]
    assert str(no_daemon(tried)) == "no callstated found; tried\n  /a: absent"


async def test_connect_says_why_not(short_dir: Path) -> None:
    path = short_dir / "s"
    with pytest.raises(NoDaemonError, match=f"{path}: absent"):
        await connect(path, wait_s=0)
    path.write_text("")
    with pytest.raises(NoDaemonError, match=f"{path}: nobody listens"):
        await connect(path, wait_s=0)


async def test_connect_does_not_wait_for_what_can_not_come(short_dir: Path) -> None:
    with pytest.raises(NoDaemonError, match="at most"):
        await connect(short_dir / ("x" * 200), wait_s=50)


async def test_the_environment_is_read_when_connecting(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLSTATE_SOCKET", str(short_dir / "from-environment"))
    with pytest.raises(NoDaemonError, match="from-environment"):
        await connect(wait_s=0)


async def test_a_later_place_is_used_only_where_the_earlier_is_absent(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CALLSTATE_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_dir))
    monkeypatch.setattr("callstate_client.transport.discovery.SYSTEM_SOCKET", str(short_dir / "system"))
    monkeypatch.setattr(os, "getuid", lambda: 123456)  # nobody's: no daemon of ours may answer
    with pytest.raises(NoDaemonError) as caught:
        await connect(wait_s=0)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()[1:]] == ["absent"] * 3
    (short_dir / "callstate.sock").write_text("")
    with pytest.raises(NoDaemonError) as caught:
        await connect(wait_s=0)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()[1:]] == ["nobody listens"]
