"""What the state directory remembers of the lease."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from callstate_sidecar.hosts.lease import LeaseNote


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    note = LeaseNote(tmp_path / "lease")
    assert note.read() is None
    for counter in (9, 1_000_000, 3):
        note.write("0011223344556677", counter)
        assert note.read() == ("0011223344556677", counter)


@pytest.mark.parametrize("text", ["", "0011", "0011 x", "\xff\n", "a 1 2"])
def test_a_note_that_is_not_whole_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "lease").write_text(text, "latin-1")
    assert LeaseNote(tmp_path / "lease").read() is None


NO_NOTE = """
import resource, signal, sys
from pathlib import Path
from callstate_sidecar.hosts.lease import LeaseNote
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
note = LeaseNote(Path(sys.argv[1]))
note.write("0011223344556677", 5)
assert note.read() is None
"""


def test_a_note_that_can_not_be_written_is_none(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", NO_NOTE, str(tmp_path / "lease")], check=True)
    LeaseNote(tmp_path / "no directory" / "lease").write("0011223344556677", 5)
