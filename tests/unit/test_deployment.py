"""The container image and the Kubernetes manifest, as far as they can be read without a registry and a cluster.

tests/system/test_dockerfile.py runs what the Dockerfile says.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from callstate_client.cli import arguments
from callstate_client.cli.version import package_version
from callstate_client.transport.discovery import SYSTEM_SOCKET
from callstate_sidecar.config.load import load_config
from callstate_sidecar.config.schema import Config
from support.dockerfile import instructions

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "contrib/kubernetes/callstate.yaml"
KUBERNETES = ("1.29", "1.33", "1.37")
"""Versions to whose schema the manifest is held: the first with native sidecars, and later ones."""


@cache
def objects() -> dict[str, Any]:
    """The manifest's objects by kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text("utf-8"))}


def pod() -> Any:
    return objects()["StatefulSet"]["spec"]["template"]["spec"]


def sidecar() -> Any:
    (found,) = pod()["initContainers"]
    return found


def worker() -> Any:
    (found,) = pod()["containers"]
    return found


def mounts(container: Any) -> dict[str, str]:
    return {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}


def commands() -> Iterator[list[str]]:
    """The commands of probes and hooks, and of the image's own check."""
    for container in (sidecar(), worker()):
        hooks = [container.get("lifecycle", {}).get("preStop")]
        probes = [container.get(f"{kind}Probe") for kind in ("startup", "liveness", "readiness")]
        yield from (each["exec"]["command"] for each in (*hooks, *probes) if each)


# -- Kubernetes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_manifest(version: str) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed; .ci/run does"
    )
    for each in objects().values():
        validate.validate(each, version, strict=True)


def test_the_daemon_is_a_native_sidecar() -> None:
    assert sidecar()["restartPolicy"] == "Always"
    assert sidecar()["startupProbe"], "without it the worker does not wait until the daemon serves"
    assert pod()["shareProcessNamespace"] is True
    assert objects()["StatefulSet"]["spec"]["serviceName"] == objects()["Service"]["metadata"]["name"]


def test_the_socket_is_shared_and_the_journal_is_not() -> None:
    (volume,) = pod()["volumes"]
    (claim,) = objects()["StatefulSet"]["spec"]["volumeClaimTemplates"]
    socket, journal = volume["name"], claim["metadata"]["name"]
    assert "emptyDir" in volume
    folder = str(Path(SYSTEM_SOCKET).parent)
    assert mounts(worker()) == {socket: folder}, "where clients look without being told"
    environ = image_environ()
    config, _ = load_config([], environ)
    assert mounts(sidecar()) == {socket: folder, journal: config.server.state_dir}
    assert config.server.socket == SYSTEM_SOCKET


def test_both_containers_run_as_the_user_of_the_image() -> None:
    (user,) = [words for name, words in instructions(ROOT / "Dockerfile") if name == "USER"]
    context = pod()["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert context["fsGroup"] == context["runAsGroup"]
    assert context["runAsNonRoot"] is True
    for container in (sidecar(), worker()):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_hooks_and_probes_are_commands_of_callstate() -> None:
    assert [program for program, *_ in commands()] == ["callstate"] * 4
    for _, *argv in commands():
        arguments.parse(argv)
    hook = arguments.parse(worker()["lifecycle"]["preStop"]["exec"]["command"][1:])
    assert (hook.command, hook.off) == ("drain", False)
    rest_s = pod()["terminationGracePeriodSeconds"] - hook.wait
    assert rest_s > 2 * Config().server.shutdown_flush_s, "the daemon stops after the worker, in the same time"


def test_the_image_is_of_this_version() -> None:
    assert sidecar()["image"] == f"callstate:{package_version()}"
    named = re.findall(r"\bcallstate[:-](\d+\.\d+\.\d+)", (ROOT / "docs/operations.md").read_text("utf-8"))
    assert set(named) == {package_version()}


def test_the_variables_in_comments_are_ours() -> None:
    variables = dict(
        re.findall(r"#   - \{ name: (CALLSTATE_\w+), value: \"?(.+?)\"? \}", MANIFEST.read_text("utf-8"))
    )
    assert set(variables) == {"CALLSTATE_STORE_URL", "CALLSTATE_STORE_PASSWORD_FILE"}
    load_config([], variables)


# -- the image ------------------------------------------------------------------------------------------------


def image_environ() -> dict[str, str]:
    """What ENV sets."""
    words = [
        word for name, text in instructions(ROOT / "Dockerfile") if name == "ENV" for word in shlex.split(text)
    ]
    return dict(word.split("=", 1) for word in words)


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: it comes with the extra dev")
    done = subprocess.run([hadolint, "Dockerfile"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "")


def test_files_copied_into_the_image_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied: set[str] = set()
    for name, words in instructions(ROOT / "Dockerfile"):
        if name == "COPY" and not words.startswith("--from="):
            copied |= set(words.split()[:-1])
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_checks_itself_with_a_command_of_callstate() -> None:
    (check,) = [words for name, words in instructions(ROOT / "Dockerfile") if name == "HEALTHCHECK"]
    program, *argv = yaml.safe_load(check.partition("CMD ")[2])
    assert program == "callstate"
    arguments.parse(argv)
