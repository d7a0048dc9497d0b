"""`callstate` where something is missing: its extra, or a daemon."""

from __future__ import annotations

import sys

import pytest

from callstate_client.cli import main


class TestWithoutItsExtra:
    @pytest.mark.parametrize("argv", ["", "ping", "ls --json", "--version", "simulate --calls 1"])
    def test_each_command_names_the_pip_line(self, argv, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "rich", None)
        assert main(argv.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "pip install 'callstate[cli]'" in err


class TestWithoutADaemon:
    @pytest.mark.parametrize(
        "argv",
        [
            "ping",
            "info",
            "stats",
            "ls",
            "show a",
            "end a",
            "rm a",
            "simulate",
            "tail",
            "drain",
            "doctor",
            "workers",
            "health",
            "health --live",
            "latency",
            "config",
            "ls --watch",
            "quarantine ls",
        ],
    )
    def test_every_command_is_status_3_and_names_the_path_tried(self, argv, capsys, tmp_path):
        path = str(tmp_path / "absent.sock")
        assert main(["--socket", path, *argv.split()]) == 3
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("callstate: ")
        assert path in err

    def test_each_path_tried_is_on_a_line(self, capsys, tmp_path, monkeypatch):
        monkeypatch.delenv("CALLSTATE_SOCKET", raising=False)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        assert main(["ping"]) == 3
        err = capsys.readouterr().err
        assert str(tmp_path / "callstate.sock") in err
        assert "/run/callstate/callstate.sock" in err
        assert len(err.splitlines()) > 2
