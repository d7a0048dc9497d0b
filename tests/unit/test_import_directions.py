"""Imports run one way, and what should stay light or portable does: read from the sources, not from a run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# Each part may import those before it, never one after it. A name stands for a module or for a package with all
# in it; inside of a package the same rule is not looked at. New modules have to be given their place here.
CLIENT = (
    # values and the wire, without I/O
    "stdio", "uncopied", "errors", "ids", "wellformed", "lines", "gojson", "times", "documents", "turns", "history",
    "metrics",
    "statewire", "model", "params", "results", "protocol", "loads", "store",
    "merge", "checks", "patches",
    "events", "asks", "rules", "clock", "patience",
    # the store in memory, and the ways to the daemon
    "engine_kept", "engine_agenda", "engine_workers", "engine_events", "engine_fates", "shelf",
    "engine_stream", "engine_access", "engine_reads", "engine_owners", "engine",
    "loops", "identity", "forks", "discovery", "following", "inflight", "link", "blocking", "pool",
    # what workers hold
    "pulse", "beat", "beats", "beatthread", "beating", "view", "changes", "entries", "queued", "endings", "holds",
    "losing", "watchdog", "backlog",
    "outbox", "saving", "leaving", "handle", "hold", "recovering", "watching", "graceful",
    "asking", "api", "memory", "client", "holding", "sync",
    "simulate", "cli",
)  # fmt: skip
SIDECAR = (
    # what is configured, and what is below everything
    "exits", "host", "storeurl", "options", "configdoc", "config", "systemd", "logs", "clock", "metrics", "chore",
    "files", "signals", "process", "peers",
    # sessions, without I/O
    "door", "instants", "head", "tails", "document", "records", "stores.base", "entry", "merging", "labelled",
    "index",
    "cache", "liveness", "workers", "events", "commands", "connection",
    # what keeps them
    "statedir", "journal", "stores.common", "stores.sqlite", "stores.redis", "readthrough", "reconciling",
    "writer", "reaper", "attendance",
    # what serves them
    "envelope", "turn", "server", "services", "listener", "daemon", "launch",
)  # fmt: skip
ORDER = {"callstate_client": CLIENT, "callstate_sidecar": SIDECAR}
FOLDER = {"callstate_client": "client", "callstate_sidecar": "sidecar"}

# What of the client the daemon may use: values and the wire, not what talks to a daemon.
SHARED = (
    "stdio", "errors", "ids", "gojson", "times", "documents", "history", "model", "merge", "protocol", "events",
    "store",
)  # fmt: skip

# Tested without a loop and shared by the asyncio and the blocking front, so neither may creep in.
SANS_IO = {
    "callstate_client": (
        "errors",
        "ids",
        "wellformed",
        "lines",
        "gojson",
        "times",
        "documents",
        "turns",
        "history",
        "metrics",
        "statewire",
        "model",
        "params",
        "results",
        "protocol",
        "loads",
        "events",
        "store",
        "checks",
        "patches",
        "asks",
        "inflight",
    ),
    "callstate_sidecar": (
        "door",
        "instants",
        "head",
        "document",
        "records",
        "entry",
        "merging",
        "index",
        "cache",
        "liveness",
        "process",
        "workers",
        "events",
        "commands",
        "envelope",
    ),
}
IO_MODULES = ("asyncio", "socket", "selectors", "select", "threading", "uvloop", "subprocess")

# Packages from elsewhere, by the parts that may import them.
THIRD_PARTY = {
    "msgspec": ("callstate_client", "callstate_sidecar"),
    "rich": ("callstate_client.cli",),
    "orjson": ("callstate_sidecar",),
    "uvloop": ("callstate_sidecar.__main__", "callstate_sidecar.launch"),
    "redis": ("callstate_sidecar.stores.redis",),
    "hiredis": ("callstate_sidecar.stores.redis.link",),
}


class Import(NamedTuple):
    """One import: who, what, and where it stands."""

    importer: str
    imported: str
    place: str


def module_name(path: Path, package: str) -> str:
    relative = path.relative_to(ROOT / FOLDER[package]).with_suffix("")
    return ".".join(relative.parts).removesuffix(".__init__")


def modules() -> dict[str, Path]:
    return {
        module_name(path, package): path
        for package, folder in FOLDER.items()
        for path in sorted((ROOT / folder / package).rglob("*.py"))
    }


MODULES = modules()


def imports_of(name: str) -> Iterator[Import]:
    """All imports of a module, also those inside functions; not those that only name a type."""
    path = MODULES[name]
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            yield from (Import(name, alias.name, place) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(name, inner if inner in MODULES else node.module, place)


IMPORTS = [found for name in MODULES for found in imports_of(name)]


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def rank(name: str) -> int | None:
    """The place of a module in its package's order; None for the package's own `__init__` and `__main__`."""
    package, _, rest = name.partition(".")
    if rest in ("", "__main__"):
        return None
    places = [place for place, part in enumerate(ORDER[package]) if within(rest, part)]
    return places[0] if places else None


def test_the_sources_are_found() -> None:
    assert {"callstate_client.model", "callstate_sidecar.config"} <= MODULES.keys()
    assert any(found.imported == "callstate_client.errors" for found in IMPORTS)


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_every_module_has_its_place_in_the_order(name: str) -> None:
    package, _, rest = name.partition(".")
    holds_parts = any(part.startswith(rest + ".") for part in ORDER[package]) if rest else True
    assert holds_parts or rank(name) is not None, f"{name} has no place in the order above"


def test_imports_run_one_way() -> None:
    wrong = []
    for importer, imported, place in IMPORTS:
        own, other = rank(importer), rank(imported) if imported.split(".")[0] in ORDER else None
        same_package = importer.split(".")[0] == imported.split(".")[0]
        if same_package and own is not None and other is not None and other > own:
            wrong.append(f"{place}: {importer} imports {imported}, which comes after it")
    assert wrong == []


def test_no_module_of_a_package_imports_the_package_itself() -> None:
    """`from callstate_client import X` of a name, not of a module, is a loop through `__init__`."""
    wrong = [
        found.place
        for found in IMPORTS
        if found.imported in ORDER and found.importer.startswith(found.imported + ".")
    ]  # fmt: skip
    assert wrong == []


def test_the_client_never_imports_the_daemon() -> None:
    assert [
        found.place
        for found in IMPORTS
        if within(found.importer, "callstate_client") and within(found.imported, "callstate_sidecar")
    ] == []


def test_the_daemon_uses_of_the_client_only_values_and_the_wire() -> None:
    allowed = {f"callstate_client.{name}" for name in SHARED}
    assert [
        f"{found.place}: {found.imported}"
        for found in IMPORTS
        if within(found.importer, "callstate_sidecar")
        and within(found.imported, "callstate_client")
        and found.imported not in allowed
    ] == []


def test_packages_from_elsewhere_are_imported_where_they_belong() -> None:
    wrong = []
    for importer, imported, place in IMPORTS:
        top = imported.partition(".")[0]
        if top in sys.stdlib_module_names or top in ORDER:
            continue
        if not any(within(importer, part) for part in THIRD_PARTY.get(top, ())):
            wrong.append(f"{place}: {importer} imports {imported}")
    assert wrong == []


def test_every_package_from_elsewhere_is_used() -> None:
    assert THIRD_PARTY.keys() <= {found.imported.partition(".")[0] for found in IMPORTS}


@pytest.mark.parametrize("package", SANS_IO)
def test_what_is_free_of_io_stays_so(package: str) -> None:
    parts = [f"{package}.{part}" for part in SANS_IO[package]]
    assert all(any(within(name, part) for name in MODULES) for part in parts)
    assert [
        f"{found.place}: {found.imported}"
        for found in IMPORTS
        if any(within(found.importer, part) for part in parts)
        and any(within(found.imported, io) for io in IO_MODULES)
    ] == []


# Takes what macOS does not have away, after the libraries are in, and then imports all of ours.
ELSEWHERE = """
import importlib, os, select, signal, socket, sys
for name in sys.argv[1].split(): importlib.import_module(name)
missing = {
    os: "pidfd_open fdatasync posix_fallocate posix_fadvise memfd_create eventfd splice copy_file_range "
        "sched_getaffinity sched_setaffinity getrandom setns unshare preadv pwritev "
        "O_DIRECT O_TMPFILE O_PATH O_NOATIME RWF_DSYNC RWF_SYNC",
    socket: "SO_PEERCRED SO_PASSCRED SO_PEERSEC SO_DOMAIN SO_PROTOCOL SOCK_CLOEXEC SOCK_NONBLOCK "
            "MSG_CMSG_CLOEXEC MSG_NOSIGNAL TCP_USER_TIMEOUT",
    select: "epoll EPOLLIN EPOLLOUT EPOLLRDHUP EPOLL_CLOEXEC",
    signal: "pidfd_send_signal SIGRTMIN SIGRTMAX SIGPWR SIGPOLL",
}
for module, names in missing.items():
    for name in names.split():
        if hasattr(module, name): delattr(module, name)
sys.platform = "darwin"
for name in sys.argv[2].split(): importlib.import_module(name)
"""


def test_nothing_that_only_linux_has_is_needed_to_import() -> None:
    libraries = {found.imported for found in IMPORTS} - MODULES.keys() - {"__future__"}
    names = [name for name in MODULES if not name.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, " ".join(sorted(libraries)), " ".join(names)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
