"""Imports run one way, and what should stay light or portable does: read from the sources, not from a run."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# Rooms, each with the rooms it may import; a name stands for a module or for a package with all in it. A room that
# is not listed here has no place yet: give it one.
CLIENT = {
    "errors": "",
    "model": "errors",
    "protocol": "errors model",
    "store": "errors model",
    "engine": "errors model protocol store",
    "clock": "",
    "requests": "errors model protocol store",
    "transport": "errors model protocol store",
    "uncopied": "",
    "new_files": "",
    "telemetry": "errors",
    "otel": "errors telemetry",
    "requester": "errors model protocol store requests telemetry transport uncopied",
    "session_api": "errors model protocol store requests requester",
    "calls": "errors model protocol store requests transport requester session_api uncopied",
    "api": "errors model protocol store requests transport requester session_api calls",
    "client": "errors model protocol store requests telemetry transport calls api",
    "memory": "errors model protocol store requests telemetry engine clock calls api",
    "sync": "errors model protocol store requests telemetry transport calls uncopied",
    "adapters": "errors model calls api client",
    "cli": "errors model protocol store requests new_files calls api client",
}
ENGINE = {
    "user": "",
    "phases": "",
    "evidence_queue": "phases",
    "sessions": "reasons user evidence_queue",
    "hot_bytes": "",
    "numbered_order": "",
    "growing_dict": "numbered_order",
    "long_queue": "",
    "table": "sessions hot_bytes numbered_order growing_dict long_queue",
    "clock": "",
    "limits": "",
    "long_result": "",
    "many_strings": "",
    "process": "",
    "reasons": "",
    "deadlines": "growing_dict",
    "span_classes": "",
    "liveness": "sessions table phases evidence_queue deadlines span_classes",
    "event_line": "user",
    "event_ring": "hot_bytes",
    "missed_events": "event_line event_ring",
    "events": "user sessions reasons event_line event_ring missed_events hot_bytes",
    "interfaces": "sessions process user long_result",
    "undo": "sessions table",
    "transaction": "sessions table liveness events undo",
    "flush_batch": "sessions",
    "flush_queue": "flush_batch sessions table transaction",
    "workers": "user sessions table growing_dict process interfaces events clock reasons transaction",
    "rules": "user sessions reasons table clock hot_bytes limits interfaces events liveness phases workers "
    "transaction",
    "verbs": "user sessions table clock limits long_result reasons interfaces events liveness phases rules",
    "expiry": "sessions reasons interfaces phases rules verbs",
    "eviction": "rules",
    "engine": "sessions table process clock limits long_result interfaces events liveness workers rules verbs "
    "expiry eviction transaction flush_queue",
    "request": "table verbs long_result many_strings",
}
SIDECAR = {
    "logs": "",
    "system": "logs",
    "config": "system",
    "histogram": "",
    "long_turns": "logs histogram",
    "metrics": "histogram long_turns",
    "garbage": "",
    "slices": "",
    "background": "logs metrics",
    "stores": "logs system config slices",
    "journal": "logs system slices background metrics",
    "access": "logs config",
    "serving": "access logs system config histogram long_turns metrics journal",
    "wanted": "",
    "read_through": "journal logs slices stores serving wanted",
    "reconcile": "logs stores metrics",
    "write_behind": "logs system config stores journal reconcile slices background metrics",
    "hot_memory": "logs metrics",
    "reaper": "logs slices background metrics hot_memory",
    "hosts": "logs system stores journal slices background metrics read_through reconcile serving",
    "erasure": "logs stores",
    "engine_host": "system config slices stores journal serving metrics read_through write_behind erasure "
    "reaper hot_memory hosts",
    "monitoring": "logs system config histogram metrics background serving engine_host",
    "named_backend": "system config stores",
    "reload": "config",
    "restoring": "logs system journal",
    "status": "system background metrics",
    "assembly": "access system config stores journal serving metrics read_through write_behind reconcile erasure "
    "reaper hosts engine_host",
    "daemon": "access logs system config garbage long_turns journal serving metrics background named_backend hosts "
    "assembly monitoring reload restoring status",
    "launch": "access logs system config journal serving daemon",
}
ROOMS = {"callstate_client": CLIENT, "callstate_client.engine": ENGINE, "callstate_sidecar": SIDECAR}
FOLDER = {"callstate_client": "client", "callstate_sidecar": "sidecar"}

# What of the client the daemon may use: values, the wire, the rules and new files, not what talks to a daemon.
SHARED = ("errors", "model", "protocol", "store", "engine", "new_files")

# Tested without a loop and shared by the asyncio and the blocking front, so neither may creep in.
SANS_IO = (
    "callstate_client.errors",
    "callstate_client.model",
    "callstate_client.protocol",
    "callstate_client.store",
    "callstate_client.engine",
    "callstate_client.requests",
    "callstate_client.calls.heartbeats.schedule",
    "callstate_client.transport.dial",
    "callstate_client.transport.heartbeat_batch",
    "callstate_client.transport.pending",
)
IO_MODULES = ("asyncio", "socket", "selectors", "select", "threading", "uvloop", "subprocess")

# Packages from elsewhere, by the parts that may import them.
THIRD_PARTY = {
    "msgspec": ("callstate_client", "callstate_sidecar"),
    "rich": ("callstate_client.cli",),
    "textual": ("callstate_client.cli.top",),
    "prometheus_client": ("callstate_sidecar.monitoring",),
    "uvloop": ("callstate_sidecar.__main__", "callstate_sidecar.launch"),
    "redis": ("callstate_sidecar.stores.redis",),
    "hiredis": ("callstate_sidecar.stores.redis.connections",),
    "starlette": ("callstate_client.adapters.fastapi",),
    "pipecat": ("callstate_client.adapters.pipecat",),
    "livekit": ("callstate_client.adapters.livekit",),
    "opentelemetry": ("callstate_client.otel",),
}

# Imported only where their extra is installed.
OPTIONAL = (
    "callstate_client.adapters",
    "callstate_client.otel",
    "callstate_client.cli.top",
    "callstate_sidecar.monitoring",
)


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
    """All imports of a module, also those inside functions and those that only name a type."""
    path = MODULES[name]
    file = path.relative_to(ROOT)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        place = f"{file}:{node.lineno}"
        if isinstance(node, ast.Import):
            yield from (Import(name, alias.name, place) for alias in node.names)
        else:
            assert node.level == 0, f"{place}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(name, inner if inner in MODULES else node.module, place)


IMPORTS = [found for name in MODULES for found in imports_of(name)]


def within(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def room(name: str, house: str) -> str | None:
    """The room of a module in a house; None for the house's own `__init__` and `__main__`, and for others."""
    if not within(name, house):
        return None
    first = name.removeprefix(house).removeprefix(".").partition(".")[0]
    return first if first not in ("", "__main__") else None


def test_the_sources_are_found() -> None:
    assert {"callstate_client.model.state", "callstate_sidecar.config.load"} <= MODULES.keys()
    assert any(found.imported == "callstate_client.errors" for found in IMPORTS)


@pytest.mark.parametrize("house", ROOMS)
def test_every_module_is_in_a_room(house: str) -> None:
    rooms = {found for name in MODULES if (found := room(name, house)) is not None}
    assert rooms == ROOMS[house].keys()


@pytest.mark.parametrize("house", ROOMS)
def test_rooms_import_only_what_they_may(house: str) -> None:
    allowed = {name: {name, *rooms.split()} for name, rooms in ROOMS[house].items()}
    assert [
        f"{found.place}: {found.importer} imports {found.imported}"
        for found in IMPORTS
        if (importer := room(found.importer, house)) and (imported := room(found.imported, house))
        if imported not in allowed[importer]
    ] == []


def test_there_are_no_circles() -> None:
    """Also none of imports that only name a type: who reads a module reads what it names."""
    left: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in IMPORTS:
        if found.imported in left and found.imported != found.importer:
            left[found.importer].add(found.imported)
    while True:  # what imports nothing that is left, and what nothing left imports, is in no circle
        imported: set[str] = set().union(*left.values())
        free = [name for name, imports in left.items() if name not in imported or not imports & left.keys()]
        if not free:
            break
        for name in free:
            del left[name]
    assert left.keys() == set()


def test_no_module_of_a_package_imports_the_package_itself() -> None:
    """`from callstate_client import X` of a name, not of a module, is a loop through `__init__`."""
    wrong = [
        found.place
        for found in IMPORTS
        if found.imported in FOLDER and found.importer.startswith(found.imported + ".")
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
        and not any(within(found.imported, part) for part in allowed)
    ] == []


def test_packages_from_elsewhere_are_imported_where_they_belong() -> None:
    wrong = []
    for importer, imported, place in IMPORTS:
        top = imported.partition(".")[0]
        if top in sys.stdlib_module_names or top in FOLDER:
            continue
        if not any(within(importer, part) for part in THIRD_PARTY.get(top, ())):
            wrong.append(f"{place}: {importer} imports {imported}")
    assert wrong == []


def test_every_package_from_elsewhere_is_used() -> None:
    assert THIRD_PARTY.keys() <= {found.imported.partition(".")[0] for found in IMPORTS}


@pytest.mark.parametrize("part", SANS_IO)
def test_modules_without_io_stay_without_it(part: str) -> None:
    assert any(within(name, part) for name in MODULES)
    assert [
        f"{found.place}: {found.imported}"
        for found in IMPORTS
        if within(found.importer, part) and any(within(found.imported, io) for io in IO_MODULES)
    ] == []


def test_the_oracles_share_nothing_with_what_they_judge() -> None:
    support = ROOT / "tests" / "support"
    oracles = (
        "ownership.model",
        "ownership.expiry_model",
        "ownership.invariants",
        "ownership.request_strategies",
        "oracle",
    )
    allowed = {"hypothesis", *(f"support.{name}" for name in oracles)}
    for name in oracles:
        tree = ast.parse((support / f"{name.replace('.', '/')}.py").read_text("utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert {
            module for module in modules if module.partition(".")[0] not in sys.stdlib_module_names
        } <= allowed, name


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


def is_optional(found: Import) -> bool:
    return any(within(found.importer, part) for part in OPTIONAL)


def is_absent(found: Import) -> bool:
    return importlib.util.find_spec(found.imported.partition(".")[0]) is None


def test_nothing_that_only_linux_has_is_needed_to_import() -> None:
    # an adapter can be imported where its framework is installed, and what needs an extra where that is
    absent = [found for found in IMPORTS if is_optional(found) and is_absent(found)]
    libraries = {found.imported for found in IMPORTS if found not in absent} - MODULES.keys() - {"__future__"}
    left_out = {found.importer for found in absent}
    left_out |= {found.importer for found in IMPORTS if found.imported in left_out and is_optional(found)}
    names = [name for name in MODULES if not name.endswith("__main__") and name not in left_out]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, " ".join(sorted(libraries)), " ".join(names)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
