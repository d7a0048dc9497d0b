"""The installed version of callstate."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version, or `unknown` where the package runs uninstalled."""
    try:
        return version("callstate")
    except PackageNotFoundError:
        return "unknown"
