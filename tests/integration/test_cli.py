"""Every command of `callstate` against a real daemon: what it prints, what it does, its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from callstate_client import CallStore, SessionState, ShuttingDownError
from callstate_client.cli import main
from callstate_sidecar.stores.sqlite import SqliteBackend, SqliteStore
from support.command_line import (
    WITHIN_S,
    Running,
    command,
    ids,
    on_a_terminal,
    requests,
    save_three,
    using,
    wait_until,
)
from support.daemon import Daemon
from support.stores import refuse_changes, take_changes, taken_over


@pytest.fixture(scope="module")
def running() -> Iterator[Daemon]:
    with Daemon() as daemon:
        yield daemon


@pytest.fixture
def daemon(running) -> Daemon:
    """A running daemon that holds no session."""

    async def empty(store: CallStore) -> None:
        for record in [record async for record in store.sessions()]:
            await store.delete(record.state.id)

    using(running, empty)
    return running


@pytest.fixture
def callstate(daemon, capfd) -> Callable[[str], tuple[int, str, str]]:
    """Run a command in this process; gives exit code, stdout, stderr."""

    def run(line: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["--socket", str(daemon.socket), *line.split()])
        return status, *capfd.readouterr()

    return run


class TestPingInfoStats:
    def test_ping(self, callstate):
        status, out, err = callstate("ping")
        assert (status, err) == (0, "")
        assert out.startswith("the daemon answered in ")

    def test_ping_as_json(self, callstate):
        status, out, _ = callstate("ping --json")
        assert status == 0
        assert json.loads(out)["ok"] is True
        assert 0 < json.loads(out)["latency_ms"] < 5000

    @pytest.mark.parametrize(
        ("name", "members"),
        [
            ("info", {"name", "version", "protocol", "store", "durability", "host_id", "started_at"}),
            ("stats", {"sessions", "connections", "dirty", "store", "journal_bytes"}),
        ],
    )
    def test_figures(self, callstate, name, members):
        status, out, err = callstate(f"{name} --json")
        assert (status, err) == (0, "")
        assert members <= json.loads(out).keys()
        status, text, _ = callstate(name)
        assert status == 0
        assert members - {line.split()[0].split(".")[0] for line in text.splitlines()} == set()

    def test_the_socket_is_found_as_workers_find_it(self, daemon, capfd, monkeypatch):
        monkeypatch.setenv("CALLSTATE_SOCKET", str(daemon.socket))
        assert main(["ping"]) == 0


class TestLs:
    def test_nothing_there(self, callstate):
        assert callstate("ls") == (0, "no calls\n", "")
        assert callstate("ls --status active") == (0, "no matching calls\n", "")
        assert callstate("ls --state orphan") == (0, "no matching calls\n", "")
        status, out, err = callstate("ls --call-id CA1")
        assert (status, out) == (0, "no matching calls\n")
        assert "only calls in the daemon's memory" in err, "the store may have it"
        assert callstate("ls --call-id CA1 --json") == (0, "[]\n", "")
        assert callstate("ls --json") == (0, "[]\n", "")

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ("", ["a", "b"]),
            ("--all", ["a", "b", "c"]),
            ("--status active", ["a"]),
            ("--status ended", ["c"]),
            ("--provider sip", ["b"]),
            ("--provider sip --all", ["b", "c"]),
            ("--state live", ["a", "b"]),
            ("--provider sip --status on_hold", ["b"]),
            ("--call-id CA1", ["a"]),
            ("--owner nobody", []),
            ("--label app=sales", ["a", "b"]),
            ("--label app=sales --label team=x", ["a"]),
            ("--label app=other", []),
            ("--ended-since 1h", ["c"]),
            ("--ended-since 2100-01-01T00:00:00Z", []),
        ],
    )
    def test_filters(self, daemon, callstate, filters, found):
        save_three(daemon)
        status, out, err = callstate(f"ls --json {filters}")
        assert (status, err) == (0, "")
        assert ids(out) == found

    def test_a_limit(self, daemon, callstate):
        save_three(daemon)
        assert len(ids(callstate("ls --json --limit 2")[1])) == 2

    def test_the_table_masks_numbers_by_default(self, daemon, callstate):
        save_three(daemon)
        head, *lines = callstate("ls --all")[1].splitlines()
        assert head.split()[:4] == ["ID", "STATUS", "STATE", "OWNER"]
        rows = {line.split()[0]: line.split() for line in lines}
        assert rows["a"][1:7] == ["active", "twilio", "inbound", "***23", "***00", "30"]
        assert rows["c"][1:3] == ["ended", "(caller_hangup)"]
        assert "+442079460123" in callstate("ls --show-numbers")[1]

    def test_calls_that_have_ended_are_pointed_to(self, daemon, callstate):
        save_three(daemon)
        for name in "ab":
            callstate(f"rm {name}")
        assert callstate("ls") == (0, "no live calls; --all lists the one that has ended\n", "")

    @pytest.mark.parametrize(
        ("key", "order"),
        [("id", "abc"), ("-id", "cba"), ("turns", "bca"), ("provider", "bca"), ("-age", "abc"), ("age", "cba")],
    )
    def test_sorted(self, daemon, callstate, key, order):
        save_three(daemon)
        found = json.loads(callstate(f"ls --json --all --sort {key}")[1])
        assert [each["session"]["id"] for each in found] == [*order]
        first = json.loads(callstate(f"ls --json --all --limit 1 --sort {key}")[1])
        assert [each["session"]["id"] for each in first] == [order[0]], "sorted before it is cut"

    def test_columns_in_the_order_given(self, daemon, callstate):
        save_three(daemon)
        out = callstate("ls --all --columns reason,labels,id --sort id")[1].splitlines()
        assert [line.split() for line in out] == [
            ["REASON", "LABELS", "ID"], ["app=sales", "team=x", "a"], ["app=sales", "b"], ["caller_hangup", "c"],
        ]  # fmt: skip

    def test_json_masks_them_too(self, daemon, callstate):
        save_three(daemon)
        assert "2079460123" not in callstate("ls --json")[1]
        assert "+442079460123" in callstate("ls --json --show-numbers")[1]


class TestShow:
    def test_the_last_twenty_turns_or_all(self, daemon, callstate):
        save_three(daemon)
        status, out, err = callstate("show a")
        assert (status, err) == (0, "")
        assert "10 earlier turns" in out
        assert "words 29" in out
        assert "words 10\n" in out
        assert "words 9\n" not in out
        assert "\n30  " in out
        whole = callstate("show a --all")[1]
        assert "words 0\n" in whole
        assert "earlier turns" not in whole

    def test_its_json_is_the_exact_document(self, daemon, callstate):
        save_three(daemon)
        status, out, _ = callstate("show a --json --show-numbers")
        document = json.loads(using(daemon, lambda store: store.load("a")).to_json())
        shown = json.loads(out)
        assert status == 0
        assert shown["session"] == document
        assert len(document["history"]) == 30
        assert document["tenant"] == {"name": "north", "depth": [1, 2.5, None]}
        assert (shown["turn_count"], shown["labels"]) == (30, {"app": "sales", "team": "x"})

    def test_json_masks_numbers_unless_they_are_asked_for(self, daemon, callstate):
        save_three(daemon)
        shown = json.loads(callstate("show a --json")[1])["session"]
        assert (shown["from"], shown["to"]) == ("***23", "***00")
        assert shown == json.loads(using(daemon, lambda store: store.load("a")).to_json()) | {
            "from": "***23", "to": "***00",
        }  # fmt: skip

    def test_one_that_is_not_there(self, callstate):
        status, out, err = callstate("show nobody")
        assert (status, out) == (1, "")
        assert "nobody" in err


class TestIdsThatBeginWithADash:
    def test_they_are_shown_ended_and_deleted(self, daemon, callstate):
        using(daemon, lambda store: store.save(SessionState("-x", status="active")))
        using(daemon, lambda store: store.save(SessionState("--all", status="active")))
        assert json.loads(callstate("show -x --json")[1])["session"]["id"] == "-x"
        assert callstate("end -x --reason done") == (0, "-x ended: done\n", "")
        assert callstate("rm -x")[1].startswith("-x deleted\n")
        assert callstate("rm -- --all")[1].startswith("--all deleted\n")


class TestUnreadable:
    def test_an_unreadable_session_is_named_with_its_remedies(self, daemon, callstate):
        async def put() -> None:
            async with SqliteStore(daemon.state_dir / "callstate.db") as store:
                await store._put("notes", b"somebody's notes", active=True)

        asyncio.run(put())
        status, out, err = callstate("show notes")
        assert (status, out) == (1, "")
        assert re.search(r"`callstate rm` deletes it, or a save with if_version=\d+ replaces it", err)
        assert callstate("rm notes")[0] == 0
        assert callstate("show notes")[0] == 1


class TestQuarantine:
    @pytest.fixture
    def daemon(self) -> Iterator[Daemon]:
        """The store refuses a turn of `a` and the deletion of `b`; another host has taken over `c`."""
        daemon = Daemon()
        path = daemon.state_dir / "callstate.db"

        async def lose(store: CallStore) -> None:
            await store.save(SessionState("c", status="active"))
            await store.flush()
            backend = SqliteBackend(path, ttl_s=3600, host_id="host-2")
            await taken_over(backend)
            await backend.close()
            await store.add_turn("c", "user", "said here")
            for name in "ab":
                await store.save(SessionState(name, from_="+442079460123", status="active"))
            await store.flush()
            refuse_changes(path)
            await store.add_turn("a", "user", "hello")
            await store.delete("b")
            assert (await store.flush()).unflushed == 3

        try:
            daemon.start()
            using(daemon, lose)
            yield daemon
        finally:
            daemon.close(expect="the store refuses|session c now belongs to host host-2")

    def test_sessions_refused_by_the_store_are_listed(self, callstate):
        status, out, err = callstate("quarantine ls")
        assert (status, err) == (0, "")
        head, *rows = out.splitlines()
        assert head.split() == ["ID", "KIND", "SINCE", "ATTEMPTS", "RETRY", "IN", "REASON"]
        assert [row.split()[:2] for row in rows] == [["a", "session"], ["b", "deletion"], ["c", "copy"]]
        assert all("rejected: IntegrityError: no change" in row for row in rows[:2])
        assert "host host-2 has it" in rows[2]
        listed = json.loads(callstate("quarantine ls --json --limit 1")[1])
        assert [(each["session_id"], each["kind"], each["epoch"]) for each in listed] == [("a", "session", 0)]

    def test_one_is_shown_with_what_the_store_has(self, callstate):
        status, out, _ = callstate("quarantine show a")
        assert status == 0
        assert re.search(r"^stored.document_bytes +\d+$", out, flags=re.MULTILINE)
        assert re.search(r"^turn_count +1$", out, flags=re.MULTILINE)
        assert "+4420" not in out
        shown = json.loads(callstate("quarantine show a --json --show-numbers")[1])
        assert shown["session"]["from"] == "+442079460123"
        assert "history" not in shown["session"]
        assert json.loads(callstate("--json quarantine show b")[1])["kind"] == "deletion"
        copy = json.loads(callstate("quarantine show c --json")[1])
        assert (copy["kind"], copy["stored"]["host"], copy["stored"]["owner"]) == ("copy", "host-2", "w9")
        assert copy["session"]["history"][0]["content"] == "said here"

    def test_one_or_all_are_tried_again(self, daemon, callstate):
        assert callstate("quarantine retry a unknown") == (0, "1 is tried again\n", "")
        assert json.loads(callstate("quarantine retry --json")[1]) == {"retried": 2}
        take_changes(daemon.state_dir / "callstate.db")
        assert callstate("quarantine retry")[0] == 0
        wait_until(daemon, lambda stats: stats["quarantined"] == 1)
        assert callstate("quarantine retry") == (0, "nothing to try again\n", "")

    def test_a_dropped_session_has_the_state_of_the_store(self, daemon, callstate):
        assert callstate("quarantine drop a") == (0, "a dropped; from now on, what the store has counts\n", "")
        assert json.loads(callstate("quarantine drop b --json")[1]) == {"id": "b", "dropped": True}
        assert callstate("quarantine drop c")[0] == 0
        assert callstate("quarantine ls") == (0, "the quarantine is empty\n", "")
        for name in "ab":
            assert using(daemon, lambda store, name=name: store.get(name)).turn_count == 0
        assert using(daemon, lambda store: store.stats())["quarantined"] == 0
        daemon.kill()
        daemon.start()
        assert using(daemon, lambda store: store.get("a")).turn_count == 0, "the journal has dropped it too"
        assert callstate("quarantine ls") == (0, "the quarantine is empty\n", "")

    @pytest.mark.parametrize("action", ["show", "drop"])
    def test_one_that_is_not_in_quarantine(self, callstate, action):
        status, out, err = callstate(f"quarantine {action} nobody")
        assert (status, out) == (1, "")
        assert "nobody" in err


class TestEndAndRm:
    def test_end_says_why_and_is_done(self, daemon, callstate):
        save_three(daemon)
        assert callstate("end a") == (0, "a ended: operator\n", "")
        assert callstate("end b --reason maintenance")[0] == 0
        records = {name: using(daemon, lambda store, name=name: store.get(name)) for name in "ab"}
        assert [record.state.status for record in records.values()] == ["ended", "ended"]
        assert [record.ended_reason for record in records.values()] == ["operator", "maintenance"]
        assert len(records["a"].state.history) == 30

    def test_one_that_had_ended_keeps_its_reason(self, daemon, callstate):
        save_three(daemon)
        assert callstate("end c") == (0, "c had already ended: caller_hangup\n", "")
        out = callstate("end c --json")[1]
        assert json.loads(out) == {"id": "c", "ended_reason": "caller_hangup", "was_ended": True}

    def test_rm(self, daemon, callstate):
        save_three(daemon)
        status, out, err = callstate("rm a")
        assert (status, out.splitlines()[0], err) == (0, "a deleted", "")
        printed = json.loads(callstate("rm b --json")[1])
        assert (printed["id"], printed["deleted"]) == ("b", True)
        assert ids(callstate("ls --json --all")[1]) == ["c"]

    def test_rm_says_what_is_left_and_for_how_long(self, daemon, callstate):
        save_three(daemon)
        left = callstate("rm a")[1].split("\n- ")
        assert "`callstate rm --everywhere a`" in left[0]
        assert re.search(r"the journal: until a checkpoint, which is due after 64 MiB", left[1])
        assert "SQLite file" in left[2]
        assert re.search(r"id and version.*: 1d00h$", left[3])
        assert json.loads(callstate("rm b --json")[1])["remains"] == [line.rstrip("\n") for line in left[1:]]

    @pytest.mark.parametrize("name", ["end", "rm"])
    def test_one_that_is_not_there(self, callstate, name):
        status, out, err = callstate(f"{name} nobody")
        assert (status, out) == (1, "")
        assert "nobody" in err


def here(daemon: Daemon) -> str:
    """The present end of the stream, as `--since` takes it."""

    async def look(store: CallStore) -> str:
        async with store.events() as events:
            return f"{events.cursor.stream}:{events.cursor.seq}"

    return using(daemon, look)


class TestTail:
    def test_a_line_an_event_with_neither_words_nor_numbers(self, daemon):
        since = here(daemon)
        save_three(daemon)
        with Running(daemon, f"tail --type created --type ended --since {since}") as tailing:
            lines = [tailing.line() for _ in range(4)]
            told = [" ".join(line.split()[1:3]) for line in lines]
            assert told == ["created session=a", "created session=b", "created session=c", "ended session=c"]
            assert "reason=caller_hangup" in lines[3]
            assert not any("0123" in line or "words" in line or "\x1b" in line for line in lines)
            # what comes is printed as it comes
            using(daemon, lambda store: store.end("a", "transferred"))
            assert "reason=transferred" in tailing.line()
            status, err = tailing.interrupt()
        assert status == 130
        place = re.fullmatch(r"callstate: to resume from here: --since (\w+:\d+)\n", err.decode())
        assert place is not None
        assert place[1].split(":")[0] == since.split(":")[0]

    def test_types_and_json(self, daemon):
        since = here(daemon)
        save_three(daemon)
        with Running(daemon, f"tail --json --type ended --type deleted --since {since}") as tailing:
            event = json.loads(tailing.line())
            assert (event["type"], event["session_id"], event["provider"]) == ("ended", "c", "sip")
            assert event["seq"] > int(since.split(":")[1])
            using(daemon, lambda store: store.delete("b"))
            event = json.loads(tailing.line())
            assert (event["type"], event["session_id"], event["reason"]) == ("deleted", "b", "deleted")
            assert tailing.interrupt() == (130, b"")

    def test_a_gap_is_said_clearly(self, daemon):
        with Running(daemon, "tail --since before:7") as tailing:
            assert "events are missing: the daemon restarted" in tailing.line()
            assert tailing.interrupt()[0] == 130

    def test_a_place_that_is_yet_to_come_is_status_1(self, daemon, callstate):
        status, out, err = callstate(f"tail --since {here(daemon).split(':')[0]}:999999999")
        assert (status, out) == (1, "")
        assert "$.params.since.seq" in err


class TestDrain:
    @pytest.fixture(autouse=True)
    def undrained(self, daemon) -> Iterator[None]:
        yield
        using(daemon, lambda store: store.drain(False))

    def test_on_and_off(self, daemon, callstate):
        save_three(daemon)
        assert callstate("drain") == (0, "new calls are refused; 2 calls left\n", "")
        with pytest.raises(ShuttingDownError):
            using(daemon, lambda store: store.save(SessionState("new")))
        using(daemon, lambda store: store.add_turn("a", "user", "goes on"))
        assert callstate("drain --off") == (0, "new calls are accepted\n", "")
        using(daemon, lambda store: store.save(SessionState("new")))

    def test_as_json(self, daemon, callstate):
        save_three(daemon)
        assert json.loads(callstate("drain --json")[1]) == {"drain": True, "sessions": 2}
        assert json.loads(callstate("drain --off --json")[1]) == {"drain": False, "sessions": 2}

    def test_calls_that_are_left_when_the_time_is_up_are_status_1(self, daemon, callstate):
        save_three(daemon)
        status, out, err = callstate("drain --wait 0.1")
        assert (status, out) == (1, "new calls are refused; 2 calls left\n")
        assert err == "callstate: 2 calls left after 0.1 s\n"

    def test_it_waits_for_the_last_call_and_no_longer(self, daemon):
        save_three(daemon)
        before = requests(using(daemon, lambda store: store.stats()), "server.drain")
        with subprocess.Popen(command(daemon, "drain --wait 60"), stdout=subprocess.PIPE) as draining:
            wait_until(daemon, lambda stats: requests(stats, "server.drain") > before)
            for name in ("a", "b"):
                assert draining.poll() is None
                using(daemon, lambda store, name=name: store.end(name))
            out, _ = draining.communicate(timeout=WITHIN_S)
        assert (draining.returncode, out) == (0, b"new calls are refused; none left\n")

    def test_on_a_terminal_it_shows_what_is_left_and_the_answer_is_clean(self, daemon):
        save_three(daemon)

        def end_both(seen: bytes) -> None:
            if b"2 calls left" in seen:  # ended again by the next piece, which changes nothing
                for name in ("a", "b"):
                    using(daemon, lambda store, name=name: store.end(name))

        environ = {"PATH": os.environ["PATH"], "TERM": "xterm-256color"}
        progress, answer = on_a_terminal(command(daemon, "drain --wait 60"), "stderr", environ, end_both)
        assert b"2 calls left" in progress
        assert answer == b"new calls are refused; none left\n"

    def test_without_calls_there_is_nothing_to_wait_for(self, callstate):
        assert callstate("drain --wait 60") == (0, "new calls are refused; none left\n", "")


class TestSimulate:
    def test_it_plays_checks_and_sums_up(self, daemon, callstate):
        status, out, err = callstate("simulate --calls 10 --rate 1000 --speed 500 --seed 8 --die 0.2 --turns 3:5")
        assert (status, err) == (0, "")
        assert "10 begun, 8 ended, 2 died, 0 failed" in out
        assert "0 lost, 0 doubled" in out
        assert "--seed 8" in out
        active = using(daemon, lambda store: store.list_active())
        assert len(active) == 2

    def test_its_json_agrees_with_the_daemon(self, daemon, callstate):
        began = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        status, out, err = callstate("simulate --calls 8 --rate 1000 --speed 500 --json")
        report = json.loads(out)
        assert (status, err) == (0, "")
        assert report["ok"] is True
        assert report["checked"]["found"] == report["counts"]["turns_sent"] > 0
        listed = json.loads(callstate(f"ls --json --ended-since {began}")[1])
        assert sum(each["turn_count"] for each in listed) == report["checked"]["found"]

    @pytest.mark.system
    def test_it_survives_a_killed_daemon_and_says_so(self):
        with Daemon() as daemon:
            argv = command(daemon, "simulate --calls 20 --rate 20 --speed 20 --seed 3 --turns 8:12 --json")
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as simulating:
                wait_until(daemon, lambda stats: requests(stats, "session.add_turn") > 40)
                daemon.kill()
                daemon.start()
                out, err = simulating.communicate(timeout=WITHIN_S)
        assert (simulating.returncode, err) == (0, b"")
        report = json.loads(out)
        assert report["counts"]["restarts"] == 1
        assert report["checked"]["lost"] == report["checked"]["doubled"] == 0
        assert report["checked"]["found"] == report["counts"]["turns_sent"]

    @pytest.mark.system
    def test_an_interrupted_one_is_status_130(self):
        with Daemon() as daemon:
            argv = command(daemon, "simulate --calls 3 --rate 100 --speed 1")
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as simulating:
                wait_until(daemon, lambda stats: requests(stats, "session.save") == 3)
                simulating.send_signal(signal.SIGINT)
                out, err = simulating.communicate(timeout=WITHIN_S)
        assert (simulating.returncode, out, err) == (130, b"", b"")


class TestAsAProcess:
    def test_a_reader_that_closes_the_pipe_is_not_an_error(self, daemon):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                command(daemon, "info"), stdout=writing, stderr=subprocess.PIPE, timeout=WITHIN_S, check=False
            )
        finally:
            os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")

    def test_a_disk_that_is_full_is_one(self, daemon):
        with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device, not a file
            done = subprocess.run(
                command(daemon, "info"), stdout=full, stderr=subprocess.PIPE, timeout=WITHIN_S, check=False
            )
        assert done.returncode == 1
        assert b"No space left" in done.stderr
        assert b"Traceback" not in done.stderr

    def test_colours_on_a_terminal_and_none_in_a_pipe(self, daemon):
        save_three(daemon)
        environ = {"PATH": os.environ["PATH"], "TERM": "xterm-256color"}
        piped = subprocess.run(
            command(daemon, "ls"), capture_output=True, timeout=WITHIN_S, env=environ, check=True
        )
        assert b"\x1b[" not in piped.stdout
        assert b"\x1b[" in on_a_terminal(command(daemon, "ls"), "stdout", environ)[0]

    def test_progress_is_shown_on_a_terminal_and_is_not_in_the_summary(self, daemon):
        environ = {"PATH": os.environ["PATH"], "TERM": "xterm-256color"}
        line = "simulate --calls 10 --rate 100 --speed 200 --turns 4:6"
        progress, summary = on_a_terminal(command(daemon, line), "stderr", environ)
        assert b"turns acknowledged" in progress
        assert b"/10" in progress
        assert b"10 begun, 10 ended" in summary
        assert b"\x1b" not in summary

    @pytest.mark.system
    def test_a_daemon_that_says_nothing_is_status_1_in_the_time_given(self):
        with Daemon() as daemon:
            daemon.signal(signal.SIGSTOP)
            try:
                done = subprocess.run(
                    command(daemon, "--timeout 0.3 ping"),
                    capture_output=True,
                    timeout=WITHIN_S,
                    check=False,
                )
            finally:
                daemon.signal(signal.SIGCONT)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"callstate: ")
        assert b"Traceback" not in done.stderr
