"""What the documents say is so: links, names, tables, commands and code, compared with the code or run."""

from __future__ import annotations

import ast
import os
import re
import shlex
import struct
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import get_args

import pytest

from callstate_client.cli import arguments
from callstate_client.cli.commands.table import COMMANDS
from callstate_client.cli.render.columns import COLUMNS
from callstate_client.engine import liveness
from callstate_client.engine.sessions import records
from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.head import CallMetrics
from callstate_client.engine.table.replay import snapshot
from callstate_client.engine.table.session_table import SessionTable
from callstate_client.engine.verbs.table import VERBS
from callstate_client.engine.workers import states
from callstate_client.protocol.events import TYPES
from callstate_sidecar.config.load import load_config
from callstate_sidecar.config.options import OPTIONS, SECTIONS
from callstate_sidecar.journal import Checkpointer, Files, Journal
from callstate_sidecar.journal import cli as journal_cli
from callstate_sidecar.journal.format import VERSION
from callstate_sidecar.journal.manifest import MANIFEST, encode_manifest, read_manifest
from callstate_sidecar.system.exits import Exit
from support.daemon import Daemon
from support.wire import Wire

ROOT = Path(__file__).parents[2]
CLIENT, SIDECAR = ROOT / "client/callstate_client", ROOT / "sidecar/callstate_sidecar"
SOURCES = [*(ROOT / "client").rglob("*.py"), *(ROOT / "sidecar").rglob("*.py")]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README, ARCHITECTURE = ROOT / "README.md", ROOT / "docs/architecture.md"
DURABILITY, OPERATIONS = ROOT / "docs/durability.md", ROOT / "docs/operations.md"

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def text(path: Path) -> str:
    return path.read_text("utf-8")


def blocks_of(markdown: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """The same of a whole document."""
    return blocks_of(text(path), language)


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text(path), flags=re.MULTILINE | re.DOTALL)


def section(path: Path, title: str) -> str:
    """What stands under a heading, up to the next of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", text(path), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{path.name} has no section {title}"
    level = len(found[1])
    return re.split(rf"^#{{1,{level}}} ", found[2], flags=re.MULTILINE)[0]


def rows(markdown: str) -> Iterator[list[str]]:
    """The cells of each row of the tables in it, head and rule left out."""
    before = False
    for line in markdown.splitlines():
        is_row = line.startswith("|")
        if is_row and before and not re.fullmatch(r"[|\s:-]+", line):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        before = is_row


def codes(markdown: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`\n]+)`", markdown)


# -- links and names ------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    assert wrong == []


def test_links_are_looked_at() -> None:
    assert "what-happens-when-" in anchors(README)
    assert "](docs/durability.md)" in text(README)


@each_document
def test_keys_and_methods_that_are_named_exist(document: Path) -> None:
    """Of what looks like `section.name`: a key of the configuration, a verb, or a member of a session's metrics."""
    named = {
        code for code in codes(prose(document)) if re.fullmatch(rf"({'|'.join(SECTIONS)}|session)\.[a-z_]+", code)
    }
    members = {f"metrics.{name}" for name in CallMetrics.__struct_fields__}
    assert named <= OPTIONS.keys() | VERBS.keys() | TYPES | members


def test_every_key_is_in_the_reference_file() -> None:
    reference = text(ROOT / "systemd" / "callstate.toml")
    named = set()
    for part in re.split(r"^(?=\[)", reference, flags=re.MULTILINE)[1:]:
        name = part.partition("]")[0][1:]
        named |= {f"{name}.{key}" for key in re.findall(r"^#?(\w+) = ", part, re.MULTILINE)}
    assert named == OPTIONS.keys()


@each_document
def test_make_targets_that_are_named_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", text(document), re.MULTILINE))
    assert named <= targets


@each_document
def test_tests_that_are_named_exist(document: Path) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text(document)):
        assert re.search(rf"^(async )?def {name or 'test_'}", text(ROOT / path), re.MULTILINE), f"{path}::{name}"


def test_files_that_are_named_exist() -> None:
    for document in DOCUMENTS:
        for path in re.findall(
            r"(?<![\w./-])[a-z_]+(?:/[\w.-]+)*/\w+\.(?:py|md|toml|service|socket)\b", text(document)
        ):
            places = (ROOT, ROOT / "docs", CLIENT, SIDECAR)
            assert any((place / path).exists() for place in places), f"{document.name}: {path}"


# -- architecture ---------------------------------------------------------------------------------------------


def test_every_module_has_its_row() -> None:
    told = {row[0].strip("`") for row in rows(section(ARCHITECTURE, "Modules"))}
    for folder in ("client/callstate_client", "sidecar/callstate_sidecar"):
        paths = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.py")]
        modules = {str(path.with_suffix("")) for path in paths if path.name != "__init__.py"}
        assert modules <= told, f"{folder}: {sorted(modules - told)}"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads(text(ROOT / "pyproject.toml"))
    extras = project["project"]["optional-dependencies"].values()
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"], *chain(*extras)]
    names = {re.split(r"[^\w-]", line)[0] for line in needed} - {"callstate"}
    told = {name for row in rows(section(ARCHITECTURE, "Dependencies")) for name in row[0].split(", ")}
    assert told == names


# -- durability -----------------------------------------------------------------------------------------------


def fields_at(title: str, data: bytes) -> dict[str, object]:
    """Read bytes by the offsets of a table: what its third column says, to what is there."""
    found: dict[str, object] = {}
    for offset, kind, meaning in rows(section(DURABILITY, title)):
        if kind in ("u16", "u32", "u64"):
            (value,) = struct.unpack_from({"u16": "<H", "u32": "<I", "u64": "<Q"}[kind], data, int(offset))
            found[meaning] = value
        elif kind.endswith(" bytes"):
            found[meaning] = data[int(offset) : int(offset) + int(kind.split()[0])]
    return found


def matching(found: dict[str, object], beginning: str) -> object:
    (value,) = [value for meaning, value in found.items() if meaning.startswith(beginning)]
    return value


def test_the_bytes_lie_where_the_tables_say(tmp_path: Path) -> None:
    journal = Journal(tmp_path, checkpoint_min_bytes=0)
    journal.start()
    journal.append([records.RemovalRecord("c1", 5), records.RemovalRecord("c2", 6)])
    journal.sync()
    journal.close()
    (path,) = tmp_path.glob("log-*.csj")
    data = path.read_bytes()

    head = fields_at("A file's header", data)
    assert matching(head, "`CSJF`") == b"CSJF"
    assert matching(head, "format version") == VERSION
    assert matching(head, "kind") == 0
    assert matching(head, "generation") == int(path.stem.removeprefix("log-")) == 1
    assert matching(head, "sequence of the first") == 1
    assert matching(head, "CRC of bytes 0 to 31") == zlib.crc32(data[:32])
    assert matching(head, "the synced mark") == 2
    assert matching(head, "CRC of the generation") == zlib.crc32(struct.pack("<QQ", 1, 2))
    last_offset, last_kind, _ = [*rows(section(DURABILITY, "A file's header"))][-1]
    start = int(last_offset) + int(last_kind.split()[0])

    record = fields_at("A record", data[start:])
    assert matching(record, "`a5` and `CSR`") == b"\xa5CSR"
    assert matching(record, "sequence") == 1
    length = matching(record, "length")
    assert isinstance(length, int)
    body_at = start + int([*rows(section(DURABILITY, "A record"))][-1][0])
    body = data[body_at : body_at + length]
    assert body == records.encode_record(records.RemovalRecord("c1", 5))
    salt = struct.pack("<QIQQ", 1, length, 1, 0)
    assert matching(record, "CRC of generation") == zlib.crc32(salt + body)
    assert data[body_at + length :][:4] == b"\xa5CSR"


def test_the_format_numbers_and_manifests_are_those_of_the_code(tmp_path: Path) -> None:
    text = DURABILITY.read_text("utf-8")
    assert re.findall(r"describes format (\d+)", text) == [str(VERSION)]
    assert f"format version, {VERSION};" in text
    manifests = re.findall(r'\{"snapshot":[^}]*\}', text)
    assert len(manifests) == 2
    for manifest in manifests:
        (tmp_path / MANIFEST).write_bytes(b"%b %08x\n" % (manifest.encode(), zlib.crc32(manifest.encode())))
        read = read_manifest(tmp_path)
        assert read is not None
        assert read.format == VERSION
        assert encode_manifest(read).decode().startswith(f"{manifest} ")
    (crc,) = re.findall(r"^MANIFEST: \{[^}]*\} ([0-9a-f]{8})$", text, re.MULTILINE)
    assert int(crc, 16) == zlib.crc32(manifests[1].encode())


def test_a_snapshot_ends_as_the_text_says(tmp_path: Path) -> None:
    journal = Journal(tmp_path, checkpoint_min_bytes=0)
    journal.start()
    Checkpointer(journal, Files(), partial(snapshot, SessionTable()), lambda: None).run_now()
    journal.close()
    (path,) = tmp_path.glob("snapshot-*.csj")
    data = path.read_bytes()
    assert matching(fields_at("A file's header", data), "kind") == 1
    end = fields_at("A record", data[96:])
    assert (matching(end, "length"), matching(end, "sequence"), len(data)) == (0, 1, 96 + 28)


def test_the_bodies_of_records_are_those_of_the_code() -> None:
    by_tag = {kind.__struct_config__.tag: [*kind.__struct_fields__] for kind in get_args(records.AnyRecord)}
    told = {int(kind): codes(elements)[-1].split() for kind, _, elements in rows(section(DURABILITY, "A body"))}
    assert told == by_tag
    for kind in (CallMetrics, Facts):
        assert " ".join(kind.__struct_fields__) in codes(section(DURABILITY, "A body"))


# -- operations -----------------------------------------------------------------------------------------------


def test_exit_statuses_are_those_of_the_code() -> None:
    told = {name.strip("`"): int(status) for status, name, *_ in rows(section(OPERATIONS, "Exit statuses"))}
    assert told == {status.name: status.value for status in Exit}


def logged(level: str) -> set[str]:
    """What the daemon logs at a level, each thing that differs as `…`."""
    wanted = {"error", "exception"} if level == "error" else {level}
    lines = set()
    for path in SOURCES:
        if "callstate_sidecar" not in path.parts:
            continue
        for node in ast.walk(ast.parse(text(path))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=name),
                    args=[ast.Constant(), ast.Constant(value=str(line)), *_],
                ) if name in wanted:
                    lines.add(re.sub(r"…+", "…", re.sub(r"%(?:\.\d+)?[sdgf]", "…", line)))
    return lines - {"…"}  # the sentence of another's making


@pytest.mark.parametrize("level", ["warning", "error", "critical"])
def test_every_line_at_warning_and_above_is_explained(level: str) -> None:
    lines = logged(level)
    assert lines
    table = [row for row in rows(section(OPERATIONS, "Log lines")) if len(row) == 4]
    told = {codes(line)[0] for _, at, line, _ in table if at == level} - {"…"}
    # made by the configuration, not by the daemon
    told = {line for line in told if "a password on the command line" not in line}
    assert told == lines


def counters() -> set[str]:
    """What `Metrics.count` is called with anywhere."""
    return {
        name
        for path in SOURCES
        for name in re.findall(r"metrics\.count\(\"(\w+)\"", text(path))
    }  # fmt: skip


@pytest.mark.system
def test_every_statistic_is_explained() -> None:
    told = {codes(row[0])[0] for row in rows(section(OPERATIONS, "Statistics"))}
    with Daemon(store="unix:///nonexistent/redis.sock") as daemon, Wire(daemon.socket) as wire:
        wire.call("session.save", session={"id": "c1"})
        wire.call("server.flush", timeout_s=0.01)
        while (stats := wire.call("server.stats"))["store"] == "up":
            pass
    assert "store_error" in stats
    assert told == stats.keys() | counters()


def test_every_command_has_its_row() -> None:
    told = {codes(row[0])[0] for row in rows(text(ROOT / "docs/cli.md")) if row[0].startswith("`callstate ")}
    assert told == {f"callstate {command.name}" for command in COMMANDS}


def test_every_column_of_a_listing_has_its_row() -> None:
    told = {name for row in rows(section(ROOT / "docs/cli.md", "Listing calls")) for name in codes(row[0])}
    assert told == COLUMNS.keys()


# -- commands and code ----------------------------------------------------------------------------------------


def commands() -> list[str]:
    lines = [line for path in DOCUMENTS for block in blocks(path, "sh") for line in block.splitlines()]
    alone = [line.removeprefix("sudo ").partition(" | ")[0] for line in lines]
    return [line for line in alone if re.match(r"(\.venv/bin/)?callstated? ", line)]


@pytest.mark.parametrize("line", commands())
def test_commands_are_taken(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # `-o` opens its file
    program, *argv = shlex.split(line, comments=True)
    if program.endswith("callstate"):
        assert arguments.parse(argv).command in argv
    elif argv[0] == "journal":
        asked = []
        for name in ("inspect", "verify", "repair", "export"):
            monkeypatch.setattr(journal_cli, name, lambda directory, out, name=name: asked.append(name) or 0)
        monkeypatch.setattr(Path, "is_dir", lambda _: True)
        assert journal_cli.main(argv[1:]) == 0
        assert asked == [argv[1]]
    else:
        config = argv.index("--config") + 1 if "--config" in argv else 0
        if config:
            argv[config] = str(ROOT / "systemd" / "callstate.toml")
        load_config(argv, {})


def test_there_are_commands_of_each_kind() -> None:
    programs = {line.split()[0].rpartition("/")[2] for line in commands()}
    assert programs == {"callstate", "callstated"}


@pytest.mark.system
def test_the_first_session_of_the_readme_runs_and_prints_what_it_says() -> None:
    (code,) = blocks(README, "python")
    said = blocks(README, "text")[0]
    with Daemon() as daemon:
        environ = os.environ | {"CALLSTATE_SOCKET": str(daemon.socket)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False, env=environ
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_pip_install_callstate_is_said_where_it_is_true() -> None:
    """It needs a release on PyPI, except where callstate is installed already and only an extra is added to it."""
    allowed = {"releasing.md", "CHANGELOG.md"}
    for path in DOCUMENTS:
        for paragraph in re.split(r"\n\n|\n(?=[-|])", text(path)):
            if path.name not in allowed and re.search(r"pip install ['\"]?callstate\b(?!-)", paragraph):
                assert "Once a release is there" in paragraph, f"{path.name}: {paragraph}"


# -- drawings -------------------------------------------------------------------------------------------------


def drawn(diagram: str) -> set[tuple[str, str, str]]:
    """The arrows of a state diagram: from where, at what (one of those the label has, by commas), to where."""
    arrows = re.findall(r"^    (\w+) --> (\w+|\[\*\]) : (.+)$", diagram, re.MULTILINE)
    assert len(arrows) == diagram.count("-->")
    return {(before, word, after) for before, after, label in arrows for word in label.split(", ")}


def test_the_drawing_of_a_workers_states_is_the_table() -> None:
    def label(evidence: states.WorkerEvidence, outcome: states.WorkerOutcome) -> str:
        what = "" if outcome is states.WorkerOutcome.NOTHING else f" / {outcome.name.lower().replace('_', ' ')}"
        return evidence.value + what

    told = section(ARCHITECTURE, "Who is there")
    (diagram,) = blocks_of(told, "mermaid")
    assert drawn(diagram) == {
        (before.value, label(evidence, outcome), after.value)
        for (before, evidence), (after, outcome) in states.TRANSITIONS.items()
    }
    assert {row[0] for row in rows(told)} == {state.value for state in states.WorkerState}


def test_the_drawing_of_a_sessions_life_is_the_table() -> None:
    (diagram,) = blocks_of(section(ARCHITECTURE, "Who holds a call, and who is dead"), "mermaid")
    assert drawn(diagram) == {
        (phase.value, evidence.value, after.value if after else "[*]")
        for (phase, evidence), after in liveness.TRANSITIONS.items()
    }
