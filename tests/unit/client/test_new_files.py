"""Where a command writes its output: a new file, or the pipe or device that is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from callstate_client.new_files import output_file


def test_the_file_of_an_output_is_replaced_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    path.write_text("old\n")
    with output_file(path) as file:
        file.write(b"new\n")
        assert path.read_text() == "old\n"
    assert path.read_text() == "new\n"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ZeroDivisionError), output_file(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "new\n"
    assert [*tmp_path.iterdir()] == [path]


def test_what_is_no_file_is_not_replaced_by_one(capfd: pytest.CaptureFixture[str]) -> None:
    with output_file(Path("/dev/null")) as null:
        null.write(b"calls\n")
    assert Path("/dev/null").is_char_device()
    with output_file(Path("/dev/stdout")) as there:  # which is a file here
        there.write(b"calls\n")
    assert Path("/dev/stdout").is_symlink()
    assert capfd.readouterr().out == "calls\n"


def test_a_pipe_that_another_user_has_put_there_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calls"
    os.mkfifo(path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    if os.getuid() == 0:
        os.chown(path, 54321, -1)
    with output_file(path) as file:
        file.write(b"calls\n")
    assert path.read_bytes() == b"calls\n", "a file of ours, in the pipe's place"
