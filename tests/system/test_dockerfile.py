"""What the Dockerfile says, done: in a container that shares this machine's /usr in place of the base image.

No registry is asked for an image. What this does not show: that `python:3.13-slim` has what the instructions use.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.booted import system_python, why_not
from support.dockerfile import instructions

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.skipif(bool(why_not()), reason=why_not())]

# The image as it is run: started, asked, used by a worker of the same user, and stopped.
RUN_IT = """\
as_user="setpriv --reuid=%(uid)s --regid=%(gid)s --clear-groups --inh-caps=-all --no-new-privs --"
cd /
$as_user %(entrypoint)s & daemon=$!
tries=0
until $as_user %(health)s; do
    tries=$((tries + 1)); [ $tries -lt 100 ]; kill -0 $daemon; sleep 0.1
done
$as_user callstate simulate --calls 5 --rate 50 --speed 100
stat --format='%%a %%u' "$CALLSTATE_SERVER_SOCKET" "$CALLSTATE_SERVER_STATE_DIR"
kill $daemon
wait $daemon
ls "$CALLSTATE_SERVER_STATE_DIR"
"""


def words(name: str) -> str:
    """The command of an instruction in its JSON form, for a shell."""
    (text,) = [text for each, text in instructions(DOCKERFILE) if each == name]
    return shlex.join(yaml.safe_load(text[text.index("[") :]))


def script(python: str) -> Iterator[str]:
    """The instructions as a script for a shell, with a Python in the place of the base image's."""
    yield f"set -eu; mkdir /base; ln --symbolic {python} /base/python; PATH=$PATH:/base"
    for name, text in instructions(DOCKERFILE):
        if name == "WORKDIR":
            yield f"mkdir --parents {text}; cd {text}"
        elif name == "COPY" and not text.startswith("--from="):
            *sources, target = text.split()
            for source in sources:
                # a folder's contents, as COPY copies them
                copied = f"/context/{source}/." if (ROOT / source).is_dir() else f"/context/{source}"
                yield f"mkdir --parents {target}; cp --recursive {copied} {target}"
        elif name == "RUN":
            yield text
        elif name == "ENV":
            yield f"export {text}"
    (user,) = [text for name, text in instructions(DOCKERFILE) if name == "USER"]
    uid, _, gid = user.partition(":")
    yield RUN_IT % {"uid": uid, "gid": gid, "entrypoint": words("ENTRYPOINT"), "health": words("HEALTHCHECK")}


def test_the_image_is_built_serves_checks_itself_and_stops(tmp_path: Path) -> None:
    python = system_python()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # the container has no network: what its pip needs, for the build too
    for what in ([f"{ROOT}[all]"], ["hatchling"]):
        done = subprocess.run(
            [*pip, "wheel", "--wheel-dir", str(tmp_path / "wheels"), *what],
            capture_output=True, text=True, timeout=240, check=False, env=environ,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    for own in (tmp_path / "wheels").glob("callstate-*"):
        own.unlink()  # the image's is built in it
    (tmp_path / "script").write_text("\n".join(script(python)), "utf-8")
    done = subprocess.run(
        [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--machine=image-{os.getpid()}",
            "--directory=/", "--volatile=yes", "--private-network", "--pipe", "--as-pid2",
            f"--bind-ro={ROOT}:/context", f"--bind-ro={tmp_path / 'wheels'}:/wheels",
            f"--bind-ro={tmp_path / 'script'}:/script",
            "--setenv=PIP_NO_INDEX=1", "--setenv=PIP_FIND_LINKS=/wheels", "--setenv=PYTHONDONTWRITEBYTECODE=1",
            "/bin/sh", "/script",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 10001\n700 10001\n" in done.stdout
    assert "journal" in done.stdout.split()
