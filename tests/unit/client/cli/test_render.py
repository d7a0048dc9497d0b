"""What commands print: tables, conversations, events and JSON, without a daemon."""

from __future__ import annotations

import io
import json
import pwd
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from callstate_client.cli import output, users
from callstate_client.cli.commands import tail
from callstate_client.cli.render import conversation, documents, figures
from callstate_client.cli.render.sessions import SessionTable
from callstate_client.cli.render.text import duration_text, masked
from callstate_client.model import SessionMetrics, SessionState, Status, Turn
from callstate_client.model.tools import tool_call, tool_result
from callstate_client.protocol.events import Cursor, Event
from callstate_client.store import Record

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def rendered(table, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def listing(records: list[Record], width: int = 200):
    return SessionTable(None, show_numbers=False).table(records, NOW, width)


@pytest.fixture
def record() -> Record:
    state = SessionState(
        "call-1",
        provider="twilio",
        direction="inbound",
        from_="+442079460123",
        to="+15550100",
        status=Status.ACTIVE,
        call_id="CA77",
        history=[Turn("agent", f"words {n}", timestamp=NOW, duration_ms=1500) for n in range(3)],
        metrics=SessionMetrics(turn_count=3, interruption_count=2),
        recovery_data={"step": 4},
        created_at=NOW - timedelta(minutes=3, seconds=20),
        updated_at=NOW - timedelta(seconds=7),
        extra={"tenant": "north"},
    )
    return Record(state, version=12, owner="w1", labels={"app": "sales"}, turn_count=3)


class TestNumbers:
    @pytest.mark.parametrize(
        ("number", "shown"),
        [
            ("", ""),
            ("+442079460123", "***23"),
            ("+44 20 7946 01-23", "***23"),
            ("12", "***"),
            ("123", "***23"),
            ("sip:alice@example.com", "***"),
            ("sip:1001@example.com", "***01"),
        ],
    )
    def test_only_the_last_two_digits_are_left(self, number, shown):
        assert masked(number) == shown

    def test_tables_mask_by_default(self, record):
        def listing(record: Record, at: datetime, *, show_numbers: bool) -> Table:
            return SessionTable(None, show_numbers=show_numbers).table([record], at)

        for table in (listing, conversation.head_table):
            hidden, shown = (rendered(table(record, NOW, show_numbers=flag)) for flag in (False, True))
            assert "4420794601" not in hidden
            assert "***23" in hidden
            assert "+442079460123" in shown
            assert "+15550100" in shown


class TestTables:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (-5, "0s"),
            (0.9, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3599, "59m59s"),
            (3600, "1h00m"),
            (86399, "23h59m"),
            (86400, "1d00h"),
            (273600, "3d04h"),
        ],
    )
    def test_lengths_of_time(self, seconds, text):
        assert duration_text(timedelta(seconds=seconds)) == text

    def test_a_session_is_a_line(self, record):
        head, line = rendered(listing([record])).splitlines()
        assert " ".join(head.split()) == "ID STATUS STATE OWNER PROVIDER DIRECTION FROM TO TURNS AGE SEEN"
        owner = f"{record.owner} " if record.owner else ""
        assert " ".join(line.split()) == f"call-1 active {owner}twilio inbound ***23 ***00 3 3m20s 7s"

    def test_whose_calls_they_are_is_shown_if_that_differs(self, record, monkeypatch):
        known = {4711: pwd.struct_passwd(("ana", "", 0, 0, "", "", ""))}
        monkeypatch.setattr(pwd, "getpwuid", known.__getitem__)
        monkeypatch.setattr(users, "_named", users._named.__wrapped__)
        mine, others, nobodys = (replace(record, uid=uid) for uid in (4711, 4712, None))
        head, *lines = rendered(listing([mine, others, nobodys])).splitlines()
        assert head.split()[3:6] == ["OWNER", "USER", "PROVIDER"]
        assert [line.split()[3] for line in lines] == ["ana", "4712", "twilio"]
        assert "USER" not in rendered(listing([mine, mine]))
        table = SessionTable(["id", "user"], show_numbers=False).table([mine], NOW)
        assert rendered(table).splitlines()[1].split() == ["call-1", "ana"]
        assert documents.record_document(others, history=False)["uid"] == 4712

    @pytest.mark.parametrize("width", [72, 80, 100])
    def test_ids_are_whole_on_a_narrow_terminal(self, record, width):
        record.state.id = "CA" + 32 * "0"  # as Twilio's
        record.owner, record.liveness = "voice-worker-17.example.org", "suspect"
        head, line = rendered(listing([record], width=width), width).splitlines()
        assert max(len(head), len(line)) <= width
        assert line.startswith(record.state.id + "  active")
        assert " suspect " in line
        assert " voice" in line
        assert "OWNER" in head
        assert head.rstrip().endswith("SEEN")
        assert line.rstrip().endswith("7s")

    def test_columns_that_were_asked_for_are_all_there_however_narrow_it_is(self, record):
        record.state.id = "CA" + 32 * "0"
        table = SessionTable(["owner", "id", "labels", "turns", "call_id"], show_numbers=False)
        record.owner, record.labels = "voice-worker-17.example.org", {"app": "sales", "language": "en"}
        head, line = rendered(table.table([record], NOW, 80), 80).splitlines()
        assert head.split() == ["OWNER", "ID", "LABELS", "TURNS", "CALL", "ID"]
        assert len(line.rstrip()) <= 80
        assert record.state.id in line
        assert line.count("…") == 2

    @pytest.mark.parametrize(
        ("liveness", "restored", "text"),
        [
            (None, False, ""),
            ("suspect", False, "suspect"),
            ("orphan", True, "orphan,restored"),
            (None, True, "restored"),
        ],
    )
    def test_the_state_is_a_column(self, record, liveness, restored, text):
        record.liveness, record.restored = liveness, restored
        table = SessionTable(["id", "state"], show_numbers=False).table([record], NOW)
        assert rendered(table).splitlines()[1].split() == ["call-1", *([text] if text else [])]

    def test_a_wide_id_leaves_room_for_no_other_but_is_whole(self, record):
        record.state.id = 200 * "x"
        assert record.state.id in rendered(listing([record], width=80), 260)

    def test_an_ended_one_says_why(self, record):
        record.state.status, record.ended_reason = Status.ENDED, "heartbeat_timeout"
        text = rendered(listing([record]))
        assert "ended (heartbeat_timeout)" in text

    def test_the_head_of_a_session(self, record):
        lines = rendered(conversation.head_table(record, NOW, show_numbers=False)).splitlines()
        rows = dict(line.rstrip().split(maxsplit=1) for line in lines)
        assert rows["owner"] == "w1"
        assert rows["labels"] == "app=sales"
        assert rows["interruption_count"] == "2"
        assert rows["recovery_data"] == '{"step":4}'
        assert rows["tenant"] == '"north"'
        assert rows["updated_at"] == "2026-05-01T11:59:53Z (7s ago)"
        assert "average_response_ms" not in rows

    def test_a_transcript_counts_from_the_first_turn_of_the_call(self, record):
        lines = rendered(conversation.transcript_table(list(record.state.history), 17)).splitlines()
        assert lines[0].split() == ["18", "12:00:00", "agent", "1.5s", "words", "0"]
        assert lines[2].split()[0] == "20"

    def test_a_transcript_shows_tool_calls_results_interruptions_and_pauses(self):
        state = SessionState("c1")
        state.add_turn(
            "agent",
            "One moment.",
            800,
            at=NOW,
            extra={"tool_calls": [tool_call("t1", "look_up", {"day": "Friday", "seats": 2})], "response_ms": 640},
        )
        state.add_turn("tool", "two tables", at=NOW + timedelta(seconds=2), extra=tool_result("t1", "look_up"))
        state.add_turn("agent", "We have", 1000, at=NOW + timedelta(seconds=90), extra={"interrupted": True})
        state.add_turn("user", "Two lines.\nThis is the second.", 1500, at=NOW + timedelta(seconds=92))
        state.add_turn("tool", "odd", extra={"tool_calls": "no list", "name": 7}, at=NOW + timedelta(seconds=93))
        state.add_turn("agent", "", extra={"tool_calls": [tool_call("t2", "f", "no JSON")]}, at=NOW)
        lines = rendered(conversation.transcript_table(list(state.history), 0)).splitlines()
        assert [line.rstrip() for line in lines] == [
            "1  12:00:00  agent  0.8s  One moment.",
            '                          → look_up(day="Friday", seats=2) (t1)',
            "                          after 0.6s",
            "2  12:00:02  tool         ← look_up (t1)",
            "                          two tables",
            "                          … 1m27s",
            "3  12:01:30  agent  1.0s  We have —",
            "                          interrupted",
            "4  12:01:32  user   1.5s  Two lines.",
            "                          This is the second.",
            "5  12:01:33  tool         odd",
            "6  12:00:00  agent        → f(no JSON) (t2)",
        ]

    def test_words_are_wrapped_beside_their_speaker(self):
        state = SessionState("c1")
        state.add_turn("user", "I would like a table for two on Friday evening, near the window.", 1000, at=NOW)
        lines = rendered(conversation.transcript_table(list(state.history), 0), 60).splitlines()
        assert [line.rstrip() for line in lines] == [
            "1  12:00:00  user  1.0s  I would like a table for two on",
            "                         Friday evening, near the window.",
        ]

    def test_figures_are_flattened(self):
        lines = rendered(figures.figures_table({"a": {"b": 1, "c": {"d": "x"}}, "e": None, "f": {}})).splitlines()
        assert [line.split() for line in lines] == [
            ["a.b", "1"],
            ["a.c.d", "x"],
            ["e", "null"],
            ["f", "{}"],
        ]

    def test_text_from_outside_drives_no_terminal_and_no_markup(self, record):
        record.state.history[0].content = "\x1b[2Jgone\x07 [bold]not bold[/] \u202eright"
        record.state.provider = "\x1b]0;title\x07"
        text = rendered(conversation.transcript_table(list(record.state.history), 0))
        text += rendered(listing([record]))
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
        assert "[bold]not bold[/]" in text


class TestEvents:
    def line(self, type_: str, **more) -> str:
        event = Event(cursor=Cursor("9f2c", 3), type=type_, at=NOW + timedelta(milliseconds=61_250), **more)
        return rendered(tail.event_line(event))

    def test_all_that_is_known_of_a_session_is_a_line(self):
        line = self.line(
            "suspect",
            session_id="call-1",
            owner="w1",
            epoch=2,
            reason="worker_exited",
            evidence="process_exited",
            deadline=NOW + timedelta(seconds=90),
        )
        assert line == (
            "12:01:01.250  suspect         session=call-1  owner=w1  epoch=2  reason=worker_exited"
            "  evidence=process_exited  until=12:01:30\n"
        )

    @pytest.mark.parametrize(
        ("type_", "more", "shown"),
        [
            ("created", {"session_id": "c", "epoch": 0}, "session=c"),
            ("turn", {"session_id": "c", "turn_count": 4}, "session=c  turns=4"),
            ("worker.left", {"worker_id": "w1", "reason": "exited"}, "worker=w1  reason=exited"),
            ("store.down", {"error": "refused"}, "error=refused"),
            ("server.drain", {"drain": True}, "drain=on"),
            ("server.drain", {"drain": False}, "drain=off"),
            ("journal.ok", {}, ""),
        ],
    )
    def test_unknown_figures_are_left_out(self, type_, more, shown):
        assert self.line(type_, **more).split(None, 2)[1:] == [type_, *([f"{shown}\n"] if shown else [])]

    @pytest.mark.parametrize(
        ("reason", "shown"),
        [
            ("restart", "the daemon restarted"),
            ("overrun", "the daemon no longer has all"),
            ("other", "missing: other"),
        ],
    )
    def test_a_gap_is_said_in_words(self, reason, shown):
        line = self.line("gap", reason=reason)
        assert "events are missing" in line
        assert shown in line
        assert "callstate ls" in line

    def test_neither_numbers_nor_labels_nor_control_characters(self):
        line = self.line(
            "ended", session_id="c", call_id="+442079460123", labels={"caller": "+15550100"}, reason="\x1b[2J\nx"
        )
        assert "0100" not in line
        assert "0123" not in line
        assert "\x1b" not in line
        assert len(line.splitlines()) == 1


class TestPrintable:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("Zoë, 18 €", "Zoë, 18 €"),
            ("two\nlines\tand", "two lines and"),
            ("no\u00a0break", "no break"),
            ("\x1b[31m", "\\x1b[31m"),
            ("\u202e", "\\u202e"),
            ("क्\u200dष", "क्\u200dष"),
        ],
    )
    def test_one_line_without_controls(self, text, shown):
        assert output.printable(text) == shown


class TestJson:
    def test_a_session_whole_is_its_exact_document(self, record):
        document = documents.record_document(record, history=True, show_numbers=True)
        out = json.loads(msgspec.json.encode(document))
        assert out["session"] == json.loads(record.state.to_json())
        assert (out["version"], out["owner"], out["labels"]) == (12, "w1", {"app": "sales"})
        assert "ended_reason" not in out

    def test_in_lists_it_has_no_history_and_masked_numbers(self, record):
        record.ended_reason = "operator"
        document = documents.record_document(record, history=False, show_numbers=False)
        assert "history" not in document["session"]
        assert (document["session"]["from"], document["session"]["to"]) == ("***23", "***00")
        assert document["ended_reason"] == "operator"
        shown = documents.record_document(record, history=False, show_numbers=True)
        assert shown["session"]["from"] == "+442079460123"

    def test_on_a_pipe_it_is_one_line_of_utf_8(self, capfd):
        output.Output(as_json=True).document({"name": "Zoë"})
        assert capfd.readouterr().out == '{"name":"Zoë"}\n'

    def test_each_of_many_is_one_line_also_on_a_terminal(self, capfd, monkeypatch):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        out = output.Output(as_json=True)
        out.line({"a": {"b": 1}})
        out.line({"c": "Zoë"})
        assert capfd.readouterr().out == '{"a":{"b":1}}\n{"c":"Zoë"}\n'

    def test_text_on_a_pipe_has_neither_colours_nor_a_width(self, capfd, record, monkeypatch):
        for name in ("FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        record.state.history[0].content = "long " * 100
        output.Output(as_json=False).text(conversation.transcript_table(list(record.state.history), 0))
        lines = capfd.readouterr().out.splitlines()
        assert len(lines) == 3
        assert "long " * 99 in lines[0]
        assert "\x1b" not in lines[0]
