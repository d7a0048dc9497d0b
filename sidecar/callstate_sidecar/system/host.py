"""The version of this program and the id of this boot."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def own_version() -> str:
    """The distribution's version."""
    try:
        return version("callstate")
    except PackageNotFoundError:  # run from a bare source tree
        return "0+unknown"


def boot_id() -> str:
    """An id that changes with each boot of the machine; empty where the kernel has none (macOS)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """The daemon and its host, as `server.info` reports them."""

    host_id: str
    boot_id: str
    version: str
