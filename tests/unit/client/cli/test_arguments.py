"""The command line of `callstate`: what is taken, what is refused, and how that is said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from callstate_client.cli import arguments, main
from callstate_client.cli.commands.table import COMMANDS
from callstate_client.cli.render.columns import COLUMNS
from callstate_client.protocol.events import Cursor


class TestArguments:
    @pytest.mark.parametrize(
        ("line", "found"),
        [
            ("show -x --json", "-x"),
            ("show --json -x", "-x"),
            ("show -- -x", "-x"),
            ("--json show -- --all", "--all"),
            ("end -hx --reason -y", "-hx"),
            ("rm --socket /s -1", "-1"),
            ("quarantine drop -x", "-x"),
        ],
    )
    def test_an_id_may_begin_with_a_dash(self, line, found):
        assert arguments.parse(line.split()).id == found

    def test_columns_and_sort_keys(self):
        args = arguments.parse(["ls", "--columns", "id, labels,call_id", "--sort", "-age"])
        assert args.columns == ("id", "labels", "call_id")
        assert args.sort == ("age", True)
        assert arguments.parse(["ls", "--sort", "id"]).sort == ("id", False)
        assert arguments.parse(["ls", "--columns", ",".join(COLUMNS)]).columns == tuple(COLUMNS)

    def test_watch(self):
        assert arguments.parse(["ls"]).watch is None
        assert arguments.parse(["ls", "--watch"]).watch == 2.0
        assert arguments.parse(["ls", "--watch", "0.5"]).watch == 0.5

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
    def test_each_command_says_what_its_exit_codes_mean(self, command, capsys):
        with pytest.raises(SystemExit):
            arguments.parse([command.name, "--help"])
        out = " ".join(capsys.readouterr().out.split())
        for status, meaning in command.exits.items():
            assert f"{status} {meaning}" in out
        assert "exit status: 0 " in out

    def test_common_options_before_and_after_the_command(self):
        for argv in (
            ["--socket", "/s", "--json", "--timeout", "2", "ping"],
            ["ping", "--socket", "/s", "--json", "--timeout", "2"],
            ["--socket", "/s", "ping", "--json", "--timeout", "2"],
        ):
            args = arguments.parse(argv)
            assert (args.command, args.socket, args.json, args.timeout) == ("ping", "/s", True, 2.0)

    def test_defaults(self):
        args = arguments.parse(["ping"])
        assert (args.socket, args.json, args.timeout) == (None, False, arguments.DEFAULT_TIMEOUT_S)
        args = arguments.parse(["simulate"])
        assert (args.die, args.turns, args.seed) == (0.0, (6, 16), None)
        assert arguments.parse(["end", "a"]).reason == "operator"

    def test_ls_takes_every_filter(self):
        line = (
            "ls --status active --provider sip --owner w --call-id C --label a=1 --label b=x=y"
            " --limit 5 --ended-since 2026-05-01T10:00:00Z --show-numbers"
        )
        args = arguments.parse(line.split())
        assert args.labels == [("a", "1"), ("b", "x=y")]
        assert args.ended_since == datetime(2026, 5, 1, 10, tzinfo=UTC)
        assert (args.status, args.provider, args.owner, args.call_id) == ("active", "sip", "w", "C")
        assert args.limit == 5
        assert args.show_numbers

    @pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)])
    def test_an_age_is_a_time_that_long_ago(self, text, seconds):
        before = datetime.now(UTC)
        since = arguments.parse(["ls", "--ended-since", text]).ended_since
        assert before <= since + timedelta(seconds=seconds) <= datetime.now(UTC)

    @pytest.mark.parametrize(("text", "turns"), [("4:9", (4, 9)), ("7", (7, 7))])
    def test_turns(self, text, turns):
        assert arguments.parse(["simulate", "--turns", text]).turns == turns

    def test_tail(self):
        args = arguments.parse(["tail"])
        assert (args.types, args.since) == ([], None)
        line = "tail --type ended --type worker.left --type turn --since 9f2c:17"
        args = arguments.parse(line.split())
        assert args.types == ["ended", "worker.left", "turn"]
        assert args.since == Cursor("9f2c", 17)

    def test_quarantine(self):
        args = arguments.parse(["--json", "quarantine", "ls", "--limit", "3"])
        assert (args.command, args.action, args.limit, args.json) == ("quarantine", "ls", 3, True)
        args = arguments.parse(["quarantine", "show", "c1", "--json"])
        assert (args.action, args.id, args.json, args.show_numbers) == ("show", "c1", True, False)
        assert arguments.parse(["quarantine", "retry"]).ids == []
        assert arguments.parse(["quarantine", "retry", "c1", "c2"]).ids == ["c1", "c2"]
        assert arguments.parse(["quarantine", "drop", "c1"]).id == "c1"
        for wrong in (["quarantine"], ["quarantine", "drop"], ["quarantine", "show", "not an id"]):
            with pytest.raises(SystemExit):
                arguments.parse(wrong)

    def test_drain(self):
        args = arguments.parse(["drain"])
        assert (args.off, args.wait) == (False, None)
        assert arguments.parse(["drain", "--off"]).off
        assert arguments.parse(["drain", "--wait", "90"]).wait == 90.0

    def test_doctor(self):
        args = arguments.parse(["doctor"])
        assert (args.repair, args.ignored) == (False, [])
        args = arguments.parse(["doctor", "--repair", "--ignore", "clock", "--ignore", "eviction"])
        assert (args.repair, args.ignored) == (True, ["clock", "eviction"])

    @pytest.mark.parametrize(
        "argv",
        [
            "",
            "unknown",
            "tail --type nothing",
            "tail --type gap",
            "tail --since 17",
            "tail --since :17",
            "tail --since 9f2c:",
            "tail --since 9f2c:-1",
            "tail --since 9f2c:\u0661",
            "tail --since 9f2c:9999999999999999999",
            "doctor --repair yes",
            "doctor --ignore",
            "drain --wait 0",
            "drain --wait soon",
            "drain --off --wait 5",
            "show",
            "show a b",
            "show active",
            "show @a",
            "rm a{b}",
            "end",
            "--timeout 0 ping",
            "--timeout nan ping",
            "--timeout inf ping",
            "--timeout soon ping",
            "ls --label novalue",
            "ls --label =v",
            "ls --columns",
            "ls --columns id,,age",
            "ls --columns id,nothing",
            "ls --sort nothing",
            "ls --sort",
            "ls --watch 0",
            "ls --watch soon",
            "ls -x",
            "latency --count 0",
            "latency --interval 0",
            "health --live --ready",
            "ls --limit 0",
            "ls --limit -1",
            "ls --ended-since yesterday",
            "ls --ended-since 99999999999d",
            "ls --stat active",
            "simulate --calls 0",
            "simulate --calls 1.5",
            "simulate --rate 0",
            "simulate --rate -3",
            "simulate --speed 0",
            "simulate --die 1.5",
            "simulate --die -0.1",
            "simulate --turns 4:",
            "simulate --turns 9:4",
            "simulate --turns 0:4",
            "simulate --turns 1:100001",
            "simulate --seed x",
        ],
    )
    def test_wrong_usage_is_status_2_and_said_on_stderr(self, argv, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(argv.split())
        assert stopped.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "usage: callstate" in err

    def test_a_wrong_value_is_quoted(self, capsys):
        with pytest.raises(SystemExit):
            main(["simulate", "--die", "2"])
        assert "argument --die: expected a fraction from 0 to 1, not '2'" in capsys.readouterr().err

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(["--version"])
        assert stopped.value.code == 0
        assert capsys.readouterr().out.startswith("callstate 0.")
