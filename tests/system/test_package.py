"""The wheel: what is in it, and what it does in a venv with nothing else, on each Python there is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"callstate_client": ROOT / "client", "callstate_sidecar": ROOT / "sidecar"}
PYTHONS = ("3.11", "3.12", "3.13")
MISSING_EXTRA = 2  # the exit status of a command whose extra is missing

# What a worker does first, with the client alone.
WORKER = """
import asyncio, sys
from callstate_client import MemoryStore, SessionState

async def main():
    store = MemoryStore()
    async with store.hold(SessionState(id="call-1", provider="twilio", from_="+15550100", to="+15550101")) as call:
        await call.add_turn("user", "hello", duration_ms=900)
        assert await store.list_active() == ["call-1"]
    state = await store.load("call-1")
    assert [turn.content for turn in state.history] == ["hello"]
    assert state.status == "ended"
    await store.close()

asyncio.run(main())
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Without this process's own Python settings, and with no terminal."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CALLSTATE_"))}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True, text=True, timeout=240, check=False, env=environ, cwd=cwd, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def succeed(*command: str | Path) -> str:
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel made from it: what a release uploads."""
    out = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "build", "--outdir", out, ROOT)
    return out


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (built,) = dist.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (built,) = dist.glob("*.whl")
    return built


def interpreter(version: str) -> str | None:
    """A Python of this version that works: pyenv's shims are on the path whether or not they lead anywhere."""
    found = shutil.which(f"python{version}")
    if found and run(found, "-c", "import ensurepip, venv").returncode == 0:
        return found
    if shutil.which("pyenv"):
        full = run("pyenv", "latest", version).stdout.strip()
        prefix = run("pyenv", "prefix", full).stdout.strip() if full else ""
        candidate = Path(prefix, "bin", f"python{version}")
        if prefix and candidate.exists() and run(candidate, "-c", "import ensurepip, venv").returncode == 0:
            return str(candidate)
    return None


@dataclass
class Venv:
    """A virtual environment with the wheel in it and what the wheel asked for.

    Args:
        path: where it is.
        wheel: what is installed in it.
    """

    path: Path
    wheel: Path

    @classmethod
    def made(cls, python: str, path: Path, wheel: Path) -> Venv:
        """Make one. Our own pip installs into it: to install another one takes longer than all the rest."""
        succeed(python, "-m", "venv", "--without-pip", path)
        return cls(path, wheel)

    def install(self, extras: str = "") -> None:
        self.run_pip(shlex.join(["install", "-q", f"{self.wheel}{extras}"]))

    def run_pip(self, line: str) -> None:
        """Run pip with arguments as a message names them."""
        pip = [sys.executable, "-m", "pip", "--python", self.path / "bin" / "python"]
        succeed(*pip, *shlex.split(line), "--quiet")

    def python(self, code: str) -> str:
        return succeed(self.path / "bin" / "python", "-c", code)

    def command(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return run(self.path / "bin" / command[0], *command[1:], cwd=self.path)


@pytest.fixture(params=PYTHONS)
def venv(request: pytest.FixtureRequest, tmp_path: Path, wheel: Path) -> Venv:
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"no Python {request.param} that works here")
    made = Venv.made(python, tmp_path / "venv", wheel)
    made.install()
    return made


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name and ".data/data/" not in name}
    sources = {
        str(path.relative_to(folder))
        for package, folder in PACKAGES.items()
        for path in (folder / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    units = {
        f"callstate_client/cli/install_units/{path.relative_to(ROOT)}"
        for path in (ROOT / "systemd").rglob("*")
        if path.is_file()
    }
    assert files == sources | units
    assert {f"{package}/py.typed" for package in PACKAGES} <= files


def test_the_wheel_installs_manual_pages_and_completions(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name.partition(".data/data/")[2] for name in archive.namelist()} - {""}
    assert files == {
        "share/man/man1/callstate.1",
        "share/man/man1/callstated.1",
        "share/man/man5/callstate.toml.5",
        "share/bash-completion/completions/callstate",
        "share/zsh/site-functions/_callstate",
        "share/fish/vendor_completions.d/callstate.fish",
    }


def test_the_sdist_holds_what_a_checkout_does(sdist: Path) -> None:
    """Tests, documents and units too: distributions build and test from it."""
    if run("git", "-C", ROOT, "rev-parse").returncode:
        pytest.skip("not a checkout")
    tracked, new = (
        {name for name in succeed("git", "-C", ROOT, "ls-files", *which).splitlines() if (ROOT / name).exists()}
        for which in (["--cached"], ["--others", "--exclude-standard"])
    )
    with tarfile.open(sdist) as archive:
        (top,) = {name.partition("/")[0] for name in archive.getnames()}
        files = {member.name.removeprefix(f"{top}/") for member in archive.getmembers() if member.isfile()}
    assert files - tracked - new == {"PKG-INFO"}
    assert tracked - files == set()


def test_an_installation_from_the_sdist_serves_and_has_its_units(sdist: Path, tmp_path: Path) -> None:
    installed = Venv.made(sys.executable, tmp_path / "venv", sdist)
    installed.install("[sidecar,cli]")
    assert installed.command("callstated", "--check").returncode == 0
    for path in ("callstate", "callstated"):
        assert installed.command(path, "--version").stdout == f"{path} {version_of(sdist)}\n"
    root = tmp_path / "root"
    done = installed.command("callstate", "install-units", "--root", root, "--callstated", "/opt/bin/callstated")
    assert done.returncode == 0, done.stderr
    units = {path.name for path in (ROOT / "systemd").glob("callstate*.s*") if path.suffix != ".conf"}
    assert {path.name for path in (root / "etc/systemd/system").iterdir()} == units
    manuals = {path.name for path in (tmp_path / "venv/share/man").glob("man*/*")}
    named = re.findall(
        r"^Documentation=man:([\w.]+)\((\d)\)$", (ROOT / "systemd/callstate.service").read_text(), re.M
    )
    assert {f"{name}.{number}" for name, number in named} <= manuals


def version_of(sdist: Path) -> str:
    return sdist.name.removeprefix("callstate-").removesuffix(".tar.gz")


def test_a_worker_pays_for_msgspec_only(wheel: Path) -> None:
    requirements = metadata(wheel).get_all("Requires-Dist", [])
    unconditional = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert [requirement.partition(">")[0] for requirement in unconditional] == ["msgspec"]
    assert {"redis", "sidecar", "cli", "all"} <= set(metadata(wheel).get_all("Provides-Extra", []))


def test_a_bare_install_is_a_client_and_says_what_more_there_is(venv: Venv, tmp_path: Path) -> None:
    loaded = set(venv.python(WORKER).split())
    assert "callstate_client" in loaded
    assert not {"redis", "uvloop", "orjson", "rich", "callstate_sidecar"} & loaded

    done = venv.command("callstate", "ls")
    assert done.returncode == MISSING_EXTRA
    assert done.stderr.endswith("pip install 'callstate[cli]'\n")

    done = venv.command("callstated")
    assert done.returncode == MISSING_EXTRA
    assert done.stderr.endswith("pip install 'callstate[sidecar]'\n")

    # callstate itself is there: pip needs an index for what the extra adds, not for callstate
    venv.run_pip(done.stderr.rpartition("pip ")[2])
    assert venv.command("callstated", "--version").stdout == f"callstated {metadata(venv.wheel)['Version']}\n"
    assert venv.command("callstated", "--check").returncode == 0
    done = venv.command(
        "callstated",
        "--store",
        "redis://127.0.0.1:1",
        "--socket",
        tmp_path / "s",
        "--state-dir",
        tmp_path / "state",
    )
    assert done.returncode == MISSING_EXTRA
    assert "pip install 'callstate[sidecar,redis]'" in done.stderr
    assert "Traceback" not in done.stderr
