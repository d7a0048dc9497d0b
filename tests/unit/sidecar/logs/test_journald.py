"""Lines for systemd's journal: the wire format, read back by another parser, and what happens without a journal."""

from __future__ import annotations

import array
import io
import json
import logging
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from callstate_sidecar import launch
from callstate_sidecar.logs import journald
from callstate_sidecar.logs.event_log import LOGGER_NAME, EventLog
from callstate_sidecar.logs.journald import JournaldSink, encode
from callstate_sidecar.logs.setup import configure_logging
from callstate_sidecar.system.exits import Exit


class Journal:
    """What stands at the other end of the socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.files = 0

    def entry(self) -> dict[str, str]:
        """The next entry, from a datagram or from the file whose descriptor was sent."""
        size = array.array("i").itemsize
        data, ancillary, _, _ = self.socket.recvmsg(1 << 22, socket.CMSG_SPACE(size))
        if not data and ancillary:
            (fd,) = array.array("i", ancillary[0][2][:size])
            self.files += 1
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
                data = mapped[:]
            with pytest.raises(PermissionError):  # sealed: nobody changes it while it is read
                os.ftruncate(fd, 0)
            os.close(fd)
        return parse(data)

    def entries(self) -> list[dict[str, str]]:
        """All that have arrived."""
        found = []
        while True:
            try:
                found.append(self.entry())
            except BlockingIOError:
                return found


def parse(data: bytes) -> dict[str, str]:
    """An entry of the native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name = line
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        assert name.decode() not in fields
        assert all(byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_" for byte in name)
        fields[name.decode()] = value.decode()
        data = rest
    return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal, and the root logger as it was afterwards."""
    root, ours = logging.getLogger(), logging.getLogger(LOGGER_NAME)
    before = root.handlers[:], ours.level
    found = Journal(tmp_path / "journal.socket")
    yield found
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:] = before[0]
    ours.setLevel(before[1])
    found.socket.close()


part = EventLog(f"{LOGGER_NAME}.part")


def configure(journal: Journal, style: str = "journald", stream: io.StringIO | None = None) -> io.StringIO:
    stream = io.StringIO() if stream is None else stream
    configure_logging("debug", style, 0, {}, stream, journal_socket=journal.path)
    return stream


def test_a_line_is_an_entry_with_its_fields(journal: Journal) -> None:
    stream = configure(journal)
    part.warning("foreign_deletion", "session %s: gone", "call-1", session_id="call-1")
    entry = journal.entry()
    assert entry.pop("CODE_FILE") == __file__
    assert int(entry.pop("CODE_LINE")) > 0
    assert entry == {
        "MESSAGE": "session call-1: gone",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "callstated",
        "CALLSTATE_EVENT": "foreign_deletion",
        "LOGGER": f"{LOGGER_NAME}.part",
        "CODE_FUNC": "test_a_line_is_an_entry_with_its_fields",
        "SESSION_ID": "call-1",
    }
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, "7"),
        (logging.INFO, "6"),
        (logging.WARNING, "4"),
        (logging.ERROR, "3"),
        (logging.CRITICAL, "2"),
    ],
)
def test_each_level_has_the_priority_of_syslog(journal: Journal, level: int, priority: str) -> None:
    configure(journal)
    part.at(level, "any", "x")
    assert journal.entry()["PRIORITY"] == priority


def test_json_and_the_journal_have_the_same_fields(journal: Journal) -> None:
    configure(journal)
    stream = io.StringIO()
    for style in ("journald", "json"):
        configure(journal, style, stream)
        try:
            raise ValueError("no good")
        except ValueError:
            part.exception("task_failed", "the task %s failed", "Reaper", task="Reaper", host="h1", session_id="c1")
    entry, line = journal.entry(), json.loads(stream.getvalue())
    assert line["exception"].partition("\n")[0] == entry["EXCEPTION"].partition("\n")[0]
    assert entry["MESSAGE"] == f"the task Reaper failed\n{entry['EXCEPTION']}"
    same = {
        "CALLSTATE_EVENT": "event",
        "TASK": "task",
        "HOST": "host",
        "SESSION_ID": "session_id",
        "LOGGER": "logger",
    }
    assert {entry[theirs] for theirs in same} == {line[ours] for ours in same.values()}
    assert entry["MESSAGE"].startswith(line["message"])


def test_text_from_outside_adds_no_field_and_no_line(journal: Journal) -> None:
    configure(journal)
    part.info("bad_id", "bad id %s", "x\nPRIORITY=0\n", session_id="a\nMESSAGE=forged", priority="0")
    entry = journal.entry()
    assert (entry["PRIORITY"], entry["SESSION_ID"]) == ("6", "a\nMESSAGE=forged")
    assert entry["MESSAGE"] == "bad id x\\nPRIORITY=0\\n"


def test_an_entry_too_large_for_a_datagram_goes_as_a_sealed_file(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journald, "SEND_BUFFER_BYTES", 4096)
    configure(journal)
    part.error("large", "x" * 100_000)
    part.error("small", "y")
    first, second = journal.entries()
    assert ({len(first["MESSAGE"]), len(second["MESSAGE"])}, journal.files) == ({100_000, 1}, 1)


def test_a_value_is_cut_at_a_megabyte() -> None:
    data = encode([("MESSAGE", "x" * (journald.VALUE_BYTES + 5)), ("PRIORITY", "3")])
    fields = parse(data)
    assert (len(fields["MESSAGE"]), fields["PRIORITY"]) == (journald.VALUE_BYTES, "3")


def test_a_lone_surrogate_is_escaped() -> None:
    assert parse(encode([("MESSAGE", "a\ud800b")])) == {"MESSAGE": "a\\ud800b"}


def test_a_journal_that_does_not_keep_up_is_not_waited_for(journal: Journal) -> None:
    stream = configure(journal)
    sent = 0
    for number in range(5000):
        part.info("many", "line %d", number)
    sent = len(journal.entries())
    assert 0 < sent < 5000
    part.info("next", "after")
    (entry,) = journal.entries()
    assert int(entry["CALLSTATE_LINES_DROPPED"]) == 5000 - sent
    part.info("next", "after that")
    assert "CALLSTATE_LINES_DROPPED" not in journal.entry()
    assert stream.getvalue() == ""


def test_without_the_journal_lines_go_to_stderr_until_it_is_back(journal: Journal) -> None:
    stream = configure(journal)
    journal.socket.close()
    journal.path.unlink()
    part.error("one", "while it is away")
    assert stream.getvalue().endswith("while it is away event=one\n")
    again = Journal(journal.path)
    part.error("two", "back")
    assert [entry["MESSAGE"] for entry in again.entries()] == ["back"]
    again.socket.close()


def test_a_journal_that_is_not_there_is_refused_and_the_settings_stay(journal: Journal, tmp_path: Path) -> None:
    stream = configure(journal, "text")
    nowhere = tmp_path / "nowhere"
    with pytest.raises(OSError, match="nowhere"):
        configure_logging("info", "journald", 0, {}, stream, journal_socket=nowhere)
    part.info("still", "here")
    assert stream.getvalue().endswith("here event=still\n")


def test_a_start_that_needs_the_journal_says_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    monkeypatch.setattr(launch, "configure_logging", partial(configure_logging, journal_socket=nowhere))
    assert launch.main(["--log-format", "journald", "--check"]) == Exit.USAGE
    assert capsys.readouterr().err == f"callstated: log.format: journald: No such file or directory: {nowhere}\n"


def test_auto_takes_the_journal_only_where_stderr_leads_there(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "stderr"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        configure_logging("info", "auto", 0, environ, stream, journal_socket=journal.path)
        part.info("one", "by the socket")
        configure_logging("info", "auto", 0, environ, stream, journal_socket=tmp_path / "nowhere")
        part.info("two", "by stderr")
        configure_logging("info", "auto", 0, {}, stream, journal_socket=journal.path)
        part.info("three", "as text")
    assert [entry["MESSAGE"] for entry in journal.entries()] == ["by the socket"]
    first, second = path.read_text().splitlines()
    assert first == "<6>by stderr event=two"
    assert second.endswith("INFO    as text event=three")


def test_a_sink_closes_its_socket(journal: Journal) -> None:
    sink = JournaldSink(journal.path, otherwise=lambda _: None)
    sink.close()
    assert sink._socket.fileno() == -1
