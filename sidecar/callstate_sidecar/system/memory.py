"""How much memory this process may use: the least of what cgroups, RLIMIT_AS and the machine allow.

A cgroup's limit holds for all groups below it, so every group on the path to ours is read: `memory.max` and
`memory.high` of version 2 (above `memory.high` the kernel throttles), `memory.limit_in_bytes` of version 1. Where
the groups are mounted is in /proc/self/mountinfo, which of them is ours in /proc/self/cgroup (cgroups(7),
proc_pid_mountinfo(5)).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

V2_FILES: Final = ("memory.max", "memory.high")
V1_FILES: Final = ("memory.limit_in_bytes",)


class MemoryLimit(NamedTuple):
    """A limit, and what sets it."""

    size: int
    """Bytes; 0: none is known."""
    source: str
    """A file, `RLIMIT_AS`, or the machine."""


def memory_limit(proc: Path = Path("/proc")) -> MemoryLimit:
    """The lowest limit.

    Args:
        proc: where procfs is mounted.
    """
    limits = [*_of_cgroups(proc / "self")]
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        limits.append(MemoryLimit(soft, "RLIMIT_AS"))
    with suppress(OSError, ValueError):  # not by /proc/meminfo, which a service may not see
        limits.append(MemoryLimit(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "the machine"))
    return min(limits, default=MemoryLimit(0, "nothing"))


def _of_cgroups(own: Path) -> Iterator[MemoryLimit]:
    with suppress(OSError, ValueError):
        groups = dict(_groups(own / "cgroup"))
        for line in (own / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            _, _, _, root, mounted, *_ = before.split(" ")
            kind, _, options = after.split(" ")
            if kind == "cgroup2" and "" in groups:
                yield from _on_path(Path(_unescaped(mounted)), root, groups[""], V2_FILES)
            elif kind == "cgroup" and "memory" in options.split(",") and "memory" in groups:
                yield from _on_path(Path(_unescaped(mounted)), root, groups["memory"], V1_FILES)


def _groups(path: Path) -> Iterator[tuple[str, str]]:
    """Our group by controller; that of version 2 has none."""
    for line in path.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, group


def _on_path(mounted: Path, root: str, group: str, files: tuple[str, ...]) -> Iterator[MemoryLimit]:
    """The limits of a group and of those above it, as far as they are mounted.

    Args:
        mounted: the mount point.
        root: which group is mounted there; a container may see its own only.
        group: ours.
        files: that hold limits.
    """
    root = _unescaped(root).rstrip("/")
    inside = group.removeprefix(root).strip("/") if group == root or group.startswith(f"{root}/") else ""
    here = mounted / inside if ".." not in Path(inside).parts else mounted
    for directory in (here, *here.parents):
        for name in files:
            with suppress(OSError, ValueError):  # the root group has none; `max` is none
                yield MemoryLimit(int((directory / name).read_text()), str(directory / name))
        if directory == mounted:
            return


def _unescaped(path: str) -> str:
    """A path of mountinfo, in which spaces and the like are octal."""
    return path.encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "surrogateescape")
