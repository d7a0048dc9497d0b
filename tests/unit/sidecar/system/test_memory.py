"""How much memory the daemon may use, as cgroups of both versions say."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from callstate_sidecar.system.memory import memory_limit

MIB = 1024 * 1024


class Host:
    """A procfs and cgroup hierarchies in a directory."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.groups = root / "cgroup fs"
        (self.proc / "self").mkdir(parents=True)

    def mount(self, kind: str, options: str, own: str, *, root: str = "/") -> None:
        """A hierarchy is mounted; `own`: the line of our group."""
        mounted = str(self.groups).replace(" ", r"\040")
        line = f"31 23 0:28 {root} {mounted} rw,relatime shared:9 - {kind} cgroup {options}\n"
        (self.proc / "self" / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + line)
        (self.proc / "self" / "cgroup").write_text(f"7:pids:/elsewhere\n{own}\n")

    def limit(self, group: str, name: str, value: str) -> None:
        """A group's file has this value."""
        (self.groups / group).mkdir(parents=True, exist_ok=True)
        (self.groups / group / name).write_text(f"{value}\n")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return Host(tmp_path)


def test_the_lowest_limit_on_the_path_of_version_2_counts(host: Host) -> None:
    host.mount("cgroup2", "rw,nsdelegate", "0::/system.slice/callstate.service")
    host.limit("system.slice/callstate.service", "memory.max", str(900 * MIB))
    host.limit("system.slice/callstate.service", "memory.high", "max")
    host.limit("system.slice", "memory.max", str(500 * MIB))
    limit = memory_limit(host.proc)
    assert limit.size == 500 * MIB
    assert limit.source.endswith("system.slice/memory.max")
    host.limit("system.slice/callstate.service", "memory.high", str(400 * MIB))
    assert memory_limit(host.proc).size == 400 * MIB


def test_the_limit_of_version_1_counts(host: Host) -> None:
    host.mount("cgroup", "rw,memory", "4:cpu,memory:/docker/c1")
    host.limit("docker/c1", "memory.limit_in_bytes", str(300 * MIB))
    host.limit("docker", "memory.limit_in_bytes", "9223372036854771712")
    assert memory_limit(host.proc).size == 300 * MIB


@pytest.mark.parametrize("own", ["/docker/c1", "/docker/c1/inner"])
def test_a_container_sees_its_own_group_at_the_mount_point(host: Host, own: str) -> None:
    host.mount("cgroup", "rw,memory", f"4:memory:{own}", root="/docker/c1")
    host.limit("", "memory.limit_in_bytes", str(300 * MIB))
    host.limit("inner", "memory.limit_in_bytes", str(400 * MIB))
    assert memory_limit(host.proc).size == 300 * MIB


def test_a_group_outside_of_what_is_mounted_is_looked_for_at_the_mount_point(host: Host) -> None:
    host.mount("cgroup2", "rw", "0::/../other")
    host.limit("", "memory.max", str(300 * MIB))
    assert memory_limit(host.proc).size == 300 * MIB


def test_without_a_limit_the_machine_counts(host: Host) -> None:
    assert memory_limit(host.proc).source == "the machine"
    host.mount("cgroup2", "rw", "0::/a")
    host.limit("a", "memory.max", "max")
    machine = memory_limit(host.proc)
    assert machine.source == "the machine"
    assert machine.size > 100 * MIB


def test_the_limit_of_the_address_space_counts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64 * MIB, 128 * MIB))
    assert memory_limit(host.proc) == (64 * MIB, "RLIMIT_AS")
