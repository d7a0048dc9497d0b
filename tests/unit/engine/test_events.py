"""Events: what is told of which group, to whom, and what those who come back are told."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from callstate_client.engine.event_ring import BLOCK, EVENT_BYTES
from callstate_client.engine.events import BYTES_A_TURN, CHANGES, EVENTS_A_TURN, Events
from callstate_client.engine.sessions.document import Document
from callstate_client.engine.sessions.facts import Facts
from callstate_client.engine.sessions.head import read_head
from callstate_client.engine.sessions.session import Session
from callstate_client.engine.verbs import subscribe
from callstate_client.errors import InvalidParamsError, OverloadedError
from callstate_client.protocol import SubscribeParams, decode_event, decode_incoming
from callstate_client.protocol.events import DEFAULT_TYPES, GAP, TYPES, Cursor
from callstate_client.protocol.params import Since
from support.budget import examples
from support.clock import START_US

STREAM = "9f2c61d07a3be458"
MAX_UNSENT = 1000
ALL = TYPES | {GAP}


class Ear:
    """A subscriber that keeps what it is sent; `unsent_bytes` is as much as a test says."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.unsent_bytes = 0
        self.closed = False

    def send(self, data: bytes, /) -> int:
        assert data.endswith(b"\n")
        assert not self.closed
        self.lines += data.splitlines(keepends=True)
        return 0

    def close(self) -> None:
        self.closed = True

    def heard(self) -> list[dict[str, Any]]:
        """What it was told since it was last asked."""
        lines, self.lines = self.lines, []
        return [json.loads(line)["params"] for line in lines]

    def told(self) -> list[tuple[int, str]]:
        """The same, in short."""
        return [(each["seq"], each["type"]) for each in self.heard()]


def session(document: bytes = b'{"id":"c1","provider":"twilio","call_id":"CA1"}', **beside: Any) -> Session:
    head = read_head(document, "$", lambda _: "2026-01-01T00:00:00Z")
    return Session("c1", Document(head, START_US), Facts(**beside))


@pytest.fixture
def events() -> Events:
    return Events(10, STREAM)


def listen(events: Events, *types: str, since: int | None = None) -> Ear:
    ear = Ear()
    cursor = None if since is None else Cursor(STREAM, since)
    events.subscribe(ear, frozenset(types) or DEFAULT_TYPES, cursor, START_US)
    return ear


class TestOfOneWorker:
    """A subscriber that is not interested in what others do with their own sessions."""

    def test_it_is_told_what_it_does_itself_and_what_may_concern_it(self, events):
        ear = Ear()
        events.subscribe(ear, DEFAULT_TYPES, None, START_US, "w1")
        events.note("ended", START_US, session(), own="w1")
        events.note("ended", START_US, session(), own="w2")
        events.note("ended", START_US, session())  # by somebody who does not hold it
        events.note("claimed", START_US, session(), own="w2")
        events.note("claimed", START_US, session(), reason="stolen")
        events.publish(MAX_UNSENT)
        assert ear.told() == [(1, "ended"), (3, "ended"), (5, "claimed")]

    def test_the_same_holds_for_what_it_has_missed(self, events):
        events.note("ended", START_US, session(), own="w2")
        events.note("ended", START_US, session(), own="w1")
        events.publish(MAX_UNSENT)
        ear = Ear()
        events.subscribe(ear, DEFAULT_TYPES, Cursor(STREAM, 0), START_US, "w1")
        events.publish(MAX_UNSENT)
        assert ear.told() == [(2, "ended")]

    def test_others_are_told_all(self, events):
        everything = listen(events)
        events.note("ended", START_US, session(), own="w2")
        events.publish(MAX_UNSENT)
        assert everything.told() == [(1, "ended")]


def happen(events: Events, count: int, type_: Any = "created") -> None:
    """So many events, each of a group of its own."""
    for _ in range(count):
        events.note(type_, START_US, session())
        assert events.publish(MAX_UNSENT) == 0


class TestLines:
    def test_of_a_session_with_all_there_is(self, events):
        ear = listen(events)
        call = session(labels={"app": "sales"}, owner="w1", epoch=3)
        until = START_US + 30_000_000
        events.note("suspect", START_US, call, reason="worker_exited", evidence="process_exited", deadline_us=until)
        events.publish(MAX_UNSENT)
        assert ear.lines == [
            b'{"jsonrpc":"2.0","method":"event","params":{"stream":"9f2c61d07a3be458","seq":1,"type":"suspect",'
            b'"at":"2026-01-01T00:00:00Z","session_id":"c1","provider":"twilio","call_id":"CA1",'
            b'"labels":{"app":"sales"},"owner":"w1","epoch":3,"reason":"worker_exited","evidence":"process_exited",'
            b'"deadline":"2026-01-01T00:00:30Z"}}\n'
        ]

    def test_empty_members_are_left_out_but_epoch_0_is_not(self, events):
        ear = listen(events)
        events.note("created", START_US + 5, session(b'{"id":"c1"}'))
        events.publish(MAX_UNSENT)
        assert ear.lines == [
            b'{"jsonrpc":"2.0","method":"event","params":{"stream":"9f2c61d07a3be458","seq":1,"type":"created",'
            b'"at":"2026-01-01T00:00:00.000005Z","session_id":"c1","epoch":0}}\n'
        ]

    @pytest.mark.parametrize(
        ("type_", "more", "shown"),
        [
            ("worker.joined", {"worker_id": "w1"}, '"worker_id":"w1"'),
            ("worker.left", {"worker_id": "w1"}, '"worker_id":"w1"'),
            ("store.down", {"error": "refused"}, '"error":"refused"'),
            ("store.up", {"error": ""}, ""),
            ("store.repaired", {}, ""),
            ("journal.full", {"error": "no space left"}, '"error":"no space left"'),
            ("journal.ok", {}, ""),
            ("server.drain", {"drain": True}, '"drain":true'),
            ("server.drain", {"drain": False}, '"drain":false'),
        ],
    )
    def test_events_without_a_session(self, events, type_, more, shown):
        ear = listen(events)
        events.note(type_, START_US, **more)
        events.publish(MAX_UNSENT)
        assert ear.lines[0].decode() == (
            '{"jsonrpc":"2.0","method":"event","params":{"stream":"9f2c61d07a3be458","seq":1,'
            f'"type":"{type_}","at":"2026-01-01T00:00:00Z"{"," if shown else ""}{shown}}}}}\n'
        )

    @pytest.mark.parametrize("type_", sorted(each for each in TYPES if "." not in each))
    def test_each_kind_is_what_the_client_reads(self, events, type_):
        ear = listen(events, *TYPES)
        call = session(labels={"app": "sales"}, owner="w1", epoch=2)
        events.note(type_, START_US, call, reason="why", turn_count=4)
        events.publish(MAX_UNSENT)
        params = decode_incoming(ear.lines[0]).params
        event = decode_event(params)
        assert (event.cursor, event.type, event.session_id) == (Cursor(STREAM, 1), type_, "c1")
        assert (event.owner, event.epoch, event.reason, event.turn_count) == ("w1", 2, "why", 4)
        assert event.to_members() == ear.heard()[0]

    def test_it_tells_of_the_moment_it_was_noted(self, events):
        ear = listen(events)
        call = session(owner="w1", epoch=1)
        events.note("created", START_US, call)
        call.change_facts(owner="w2", epoch=2, labels={"x": "y"})
        events.note("claimed", START_US, call, reason="stolen")
        events.publish(MAX_UNSENT)
        created, claimed = ear.heard()
        assert (created["owner"], created["epoch"], "labels" in created) == ("w1", 1, False)
        assert (claimed["owner"], claimed["epoch"], claimed["labels"]) == ("w2", 2, {"x": "y"})

    def test_whose_it_was_is_said_in_place_of_whose_it_is(self, events):
        ear = listen(events)
        events.note("released", START_US, session(owner=""), reason="released", owner="w1")
        events.publish(MAX_UNSENT)
        assert ear.heard()[0]["owner"] == "w1"

    def test_text_from_outside_makes_no_second_line(self, events):
        ear = listen(events)
        events.note("store.down", START_US, error='two\nlines "and" \u2028 more')
        events.publish(MAX_UNSENT)
        assert len(ear.lines) == 1
        assert ear.heard()[0]["error"] == 'two\nlines "and" \u2028 more'


class TestGroups:
    def test_nothing_is_published_before_the_group_is_journaled(self, events):
        ear = listen(events)
        events.note("created", START_US, session())
        assert ear.lines == []
        events.publish(MAX_UNSENT)
        assert ear.told() == [(1, "created")]
        events.publish(MAX_UNSENT)
        assert ear.lines == []

    def test_a_group_leaves_in_one_piece(self, events):
        sent: list[bytes] = []
        ear = listen(events)
        ear.send = sent.append
        events.note("created", START_US, session())
        events.note("ended", START_US, session(), reason="completed")
        events.publish(MAX_UNSENT)
        assert [data.count(b"\n") for data in sent] == [2]

    def test_events_of_undone_changes_are_not_published_or_numbered(self, events):
        ear = listen(events)
        for type_ in CHANGES:
            events.note(type_, START_US, session())
        events.drop_undone({})
        events.publish(MAX_UNSENT)
        assert (ear.lines, events.seq) == ([], 0)
        happen(events, 1)
        assert ear.told() == [(1, "created")]

    def test_events_that_are_not_changes_survive_a_rollback(self, events):
        ear = listen(events)
        events.note("created", START_US, session())
        events.note("suspect", START_US, session())
        events.note("worker.left", START_US, worker_id="w1")
        events.drop_undone({})
        events.publish(MAX_UNSENT)
        assert ear.told() == [(1, "suspect"), (2, "worker.left")]


class TestTypes:
    def test_each_subscriber_gets_the_types_it_named(self, events):
        some, others, every = listen(events, "ended", "store.up"), listen(events, "created"), listen(events)
        for type_ in ("created", "ended", "suspect"):
            events.note(type_, START_US, session())
        events.note("store.up", START_US)
        events.publish(MAX_UNSENT)
        assert some.told() == [(2, "ended"), (4, "store.up")]
        assert others.told() == [(1, "created")]
        assert [seq for seq, _ in every.told()] == [1, 2, 3, 4]

    def test_turn_events_are_sent_to_those_who_name_them_and_not_kept(self, events):
        happen(events, 1, "turn")
        assert (events.wants_turns, events.seq) == (False, 0)
        every, turns = listen(events), listen(events, "turn")
        assert events.wants_turns
        events.note("turn", START_US, session(), turn_count=7)
        events.note("ended", START_US, session())
        events.publish(MAX_UNSENT)
        assert [(each["seq"], each["turn_count"]) for each in turns.heard()] == [(1, 7)]
        assert every.told() == [(2, "ended")]
        again = listen(events, "turn", "ended", since=0)
        events.publish(MAX_UNSENT)
        assert again.told() == [(2, "ended")]

    def test_turns_are_wanted_as_long_as_one_wants_them(self, events):
        first, second = listen(events, "turn"), listen(events, "turn", "ended")
        events.unsubscribe(first)
        assert events.wants_turns
        events.subscribe(second, DEFAULT_TYPES, None, START_US)
        assert not events.wants_turns

    def test_unsubscribing_may_be_said_twice_or_by_a_stranger(self, events):
        ear = listen(events)
        for each in (ear, ear, Ear()):
            events.unsubscribe(each)
        happen(events, 1)
        assert (ear.lines, events.subscribers) == ([], 0)


class TestComingBack:
    def test_missed_events_come_at_the_end_of_the_turn_before_new_ones(self, events):
        happen(events, 3)
        events.note("ended", START_US, session())
        ear = listen(events, since=1)
        assert ear.lines == []  # its reply goes first
        events.publish(MAX_UNSENT)
        assert ear.told() == [(2, "created"), (3, "created"), (4, "ended")]
        happen(events, 1)
        assert ear.told() == [(5, "created")]

    def test_a_request_that_is_run_again_before_the_end_is_answered_once(self, events):
        happen(events, 2)
        ear = Ear()
        for _ in range(2):
            assert events.subscribe(ear, DEFAULT_TYPES, Cursor(STREAM, 1), START_US) == 1
        events.publish(MAX_UNSENT)
        assert ear.told() == [(2, "created")]

    def test_the_reply_has_the_cursor_to_start_from(self, events):
        happen(events, 4)
        assert events.subscribe(Ear(), DEFAULT_TYPES, None, START_US) == 4
        assert events.subscribe(Ear(), DEFAULT_TYPES, Cursor(STREAM, 4), START_US) == 4
        assert events.subscribe(Ear(), DEFAULT_TYPES, Cursor(STREAM, 0), START_US) == 0
        assert events.subscribe(Ear(), DEFAULT_TYPES, Cursor("another", 2), START_US) == 4

    def test_filters_hold_for_what_was_missed(self, events):
        happen(events, 2)
        happen(events, 1, "ended")
        ear = listen(events, "ended", since=0)
        events.publish(MAX_UNSENT)
        assert ear.told() == [(3, "ended")]

    def test_another_stream_is_a_gap_and_nothing_before_it_is_sent(self, events):
        happen(events, 3)
        ear = Ear()
        events.subscribe(ear, frozenset({"ended"}), Cursor("before", 99), START_US + 1_000_000)
        events.publish(MAX_UNSENT)
        assert ear.lines == [
            b'{"jsonrpc":"2.0","method":"event","params":{"stream":"9f2c61d07a3be458","seq":3,"type":"gap",'
            b'"at":"2026-01-01T00:00:01Z","reason":"restart"}}\n'
        ]

    def test_dropped_events_are_a_gap_and_the_rest_is_sent(self, events):
        happen(events, 13)
        ear = listen(events, since=2)
        events.publish(MAX_UNSENT)
        gap, *rest = ear.heard()
        assert (gap["seq"], gap["type"], gap["reason"]) == (3, "gap", "overrun")
        assert [each["seq"] for each in rest] == [*range(4, 14)]
        # who has the gap comes back without another
        ear = listen(events, since=gap["seq"])
        events.publish(MAX_UNSENT)
        assert [seq for seq, _ in ear.told()] == [*range(4, 14)]

    def test_a_place_that_is_yet_to_come_is_refused_and_the_old_subscription_stays(self, events):
        happen(events, 2)
        ear = listen(events)
        with pytest.raises(InvalidParamsError) as refused:
            events.subscribe(ear, DEFAULT_TYPES, Cursor(STREAM, 3), START_US)
        assert (refused.value.path, refused.value.expected) == ("$.params.since.seq", "at most 2")
        happen(events, 1)
        assert ear.told() == [(3, "created")]

    def test_a_second_subscription_replaces_the_first(self, events):
        happen(events, 2)
        ear = listen(events, "created", since=0)
        events.subscribe(ear, frozenset({"ended"}), None, START_US)
        happen(events, 1)
        happen(events, 1, "ended")
        assert (ear.told(), events.subscribers) == ([(4, "ended")], 1)

    def test_a_subscriber_that_left_before_the_end_of_the_turn_gets_nothing(self, events):
        happen(events, 2)
        ear = listen(events, since=0)
        events.unsubscribe(ear)
        events.publish(MAX_UNSENT)
        assert ear.lines == []


def caught_up(events: Events) -> int:
    """Let all that are behind catch up; returns in how many goes."""
    goes = 0
    while events.behind:
        events.catch_up()
        goes += 1
    return goes


class TestCatchingUp:
    """Those that have missed much, or that come back together."""

    @pytest.fixture
    def events(self) -> Events:
        return Events(2000, STREAM)

    def test_much_is_sent_some_at_a_time(self, events):
        happen(events, 1900)
        ear = listen(events, since=100)
        events.publish(MAX_UNSENT)
        told = ear.told()
        assert 0 < len(told) <= EVENTS_A_TURN
        while events.behind:
            events.catch_up()
            more = ear.told()
            assert 0 < len(more) <= EVENTS_A_TURN
            told += more
        assert told == [(seq, "created") for seq in range(101, 1901)]

    def test_long_ones_are_sent_fewer_at_a_time(self, events):
        long = session()
        long.doc.call_id = "p" * EVENT_BYTES
        for _ in range(1000):
            events.note("created", START_US, long)
        events.publish(MAX_UNSENT)
        ear = listen(events, since=0)
        events.publish(MAX_UNSENT)
        assert sum(map(len, ear.lines)) < BYTES_A_TURN + BLOCK * (EVENT_BYTES + 1000)
        assert caught_up(events) > 1000 * EVENT_BYTES // (BYTES_A_TURN + BLOCK * EVENT_BYTES) - 1
        assert len(ear.told()) == 1000

    def test_those_that_come_together_take_turns(self, events):
        happen(events, 1000)
        ears = [listen(events, since=0) for _ in range(20)]
        events.publish(MAX_UNSENT)
        assert sum(len(ear.lines) for ear in ears) <= EVENTS_A_TURN
        for _ in range(2):
            events.catch_up()
        heard = [len(ear.lines) for ear in ears]
        assert max(heard) - min(heard) <= 2 * BLOCK
        assert caught_up(events) >= 20 * 1000 // (EVENTS_A_TURN) - 3
        for ear in ears:
            assert [seq for seq, _ in ear.told()] == [*range(1, 1001)]

    def test_what_happens_meanwhile_comes_behind_in_its_order(self, events):
        happen(events, 1000)
        ear = listen(events, "created", "turn", since=0)
        events.publish(MAX_UNSENT)
        happen(events, 2, "turn")
        happen(events, 2)
        happen(events, 1, "ended")
        happen(events, 1, "turn")
        assert events.is_behind(ear)
        caught_up(events)
        happen(events, 1, "turn")
        told = ear.told()
        assert told[:1000] == [(seq, "created") for seq in range(1, 1001)]
        assert told[1000:] == [
            (1001, "turn"), (1002, "turn"), (1003, "created"), (1004, "created"), (1006, "turn"), (1007, "turn")
        ]  # fmt: skip

    def test_what_is_dropped_before_it_was_sent_is_a_gap(self, events):
        happen(events, 2000)
        ear = listen(events, "created", "turn", since=0)
        events.publish(MAX_UNSENT)
        before = ear.told()
        happen(events, 3, "turn")
        happen(events, 1500)
        caught_up(events)
        told = ear.told()
        assert [seq for seq, _ in before] == [*range(1, len(before) + 1)]
        assert told[0] == (1500, "gap")
        kept = [seq for seq in range(1501, 3504) if seq not in (2001, 2002, 2003)]
        assert [seq for seq, type_ in told if type_ == "created"] == kept
        assert [seq for seq, _ in told] == [*range(1500, 3504)]

    def test_who_leaves_meanwhile_is_sent_no_more(self, events):
        happen(events, 1000)
        ear, other = listen(events, since=0), listen(events, since=0)
        events.publish(MAX_UNSENT)
        events.unsubscribe(ear)
        heard = len(ear.lines)
        caught_up(events)
        assert (len(ear.lines), len(other.lines)) == (heard, 1000)

    def test_who_reads_nothing_is_cut_off_as_ever(self, events):
        happen(events, 1000)
        ear = listen(events, since=0)
        events.publish(MAX_UNSENT)
        ear.unsent_bytes = MAX_UNSENT + 1
        events.note("ended", START_US, session())
        assert events.publish(MAX_UNSENT) == 1
        assert ear.closed
        assert not events.behind

    def test_who_is_interested_in_none_of_them_is_not_behind_for_ever(self, events):
        happen(events, 1000)
        ear = listen(events, "ended", since=0)
        events.publish(MAX_UNSENT)
        assert caught_up(events) >= 1
        assert ear.lines == []
        happen(events, 1, "ended")
        assert ear.told() == [(1001, "ended")]

    def test_the_ring_is_the_same_whatever_was_dropped(self, events):
        """Places are found at any distance from the oldest, in whole and in broken blocks."""
        for _ in range(5):
            happen(events, 777)
            for seq in (events.ring.lost_seq, events.seq - 1500, events.seq - 1, events.seq):
                if seq >= events.ring.lost_seq:
                    ear = listen(events, since=seq)
                    events.publish(MAX_UNSENT)
                    caught_up(events)
                    assert [number for number, _ in ear.told()] == [*range(seq + 1, events.seq + 1)]
                    events.unsubscribe(ear)


class TestTheRing:
    def test_a_lower_limit_holds_from_the_next_event_on(self, events):
        happen(events, 10)
        events.ring.limit = 3
        happen(events, 1)
        ear = listen(events, since=0)
        events.publish(MAX_UNSENT)
        assert ear.told() == [(8, "gap"), (9, "created"), (10, "created"), (11, "created")]

    def test_turns_between_cost_no_event_its_place(self, events):
        listen(events, "turn")
        for _ in range(5):
            happen(events, 2, "created")
            happen(events, 3, "turn")
        ear = listen(events, since=0)
        events.publish(MAX_UNSENT)
        assert [type_ for _, type_ in ear.told()] == ["created"] * 10

    def test_it_is_bounded_in_bytes_too_and_the_newest_is_always_kept(self, events):
        long = session()
        long.doc.call_id = "p" * EVENT_BYTES * 4  # as a store may have it
        for _ in range(6):
            events.note("created", START_US, long)
            events.publish(MAX_UNSENT)
        ear = listen(events, since=0)
        events.publish(MAX_UNSENT)
        assert ear.told() == [(4, "gap"), (5, "created"), (6, "created")]
        events.note("store.down", START_US, error="e" * 11 * EVENT_BYTES)
        events.publish(MAX_UNSENT)
        ear = listen(events, since=6)
        events.publish(MAX_UNSENT)
        assert ear.told() == [(7, "store.down")]


class TestSlowOnes:
    def test_a_subscriber_that_does_not_read_gets_a_last_line_and_no_more_events(self, events):
        slow, other = listen(events, "turn"), listen(events)
        happen(events, 1, "turn")
        assert slow.told() == [(1, "turn")]
        slow.unsent_bytes = MAX_UNSENT + 1
        events.note("ended", START_US, session())
        assert events.publish(MAX_UNSENT) == 1
        (line,) = slow.lines
        said = decode_incoming(line)
        assert said.id is None
        assert b'"id":null' in line
        error = said.error.exception()
        assert isinstance(error, OverloadedError)
        assert error.message == "events were not read"
        assert slow.closed
        assert (events.subscribers, events.wants_turns) == (1, False)
        assert other.told() == [(2, "ended")]
        happen(events, 1)
        assert other.told() == [(3, "created")]

    def test_at_the_limit_one_is_not_too_slow(self, events):
        ear = listen(events)
        ear.unsent_bytes = MAX_UNSENT
        happen(events, 1)
        assert ear.told() == [(1, "created")]

    def test_a_subscriber_that_has_read_all_is_not_cut_off_for_a_large_batch(self, events):
        ear = listen(events, since=0)
        ear.send = lambda data: setattr(ear, "unsent_bytes", ear.unsent_bytes + len(data))
        for _ in range(50):
            events.note("created", START_US, session())
        assert events.publish(MAX_UNSENT) == 0
        assert ear.unsent_bytes > MAX_UNSENT
        assert not ear.closed

    def test_no_subscriber_is_cut_off_without_events(self, events):
        ear = listen(events)
        ear.unsent_bytes = MAX_UNSENT + 1
        assert events.publish(MAX_UNSENT) == 0
        assert not ear.closed


class TestTheVerb:
    def subscribe(self, events: Events, ear: Ear, **params: Any) -> Any:
        ctx: Any = SimpleNamespace(events=events, now_us=lambda: START_US)
        caller: Any = ear
        return json.loads(subscribe.subscribe(ctx, caller, SubscribeParams(**params)))

    def test_without_params_all_types_but_turn_are_sent_from_now_on(self, events):
        ear = Ear()
        happen(events, 2)
        assert self.subscribe(events, ear) == {"stream": STREAM, "seq": 2}
        assert not events.wants_turns
        happen(events, 1)
        assert ear.told() == [(3, "created")]

    def test_types_and_since(self, events):
        ear = Ear()
        happen(events, 1)
        happen(events, 1, "ended")
        since = Since(stream=STREAM, seq=0)
        assert self.subscribe(events, ear, types=["ended", "gap", "ended"], since=since)["seq"] == 0
        events.publish(MAX_UNSENT)
        assert ear.told() == [(2, "ended")]

    def test_no_types_are_gaps_only(self, events):
        ear = Ear()
        self.subscribe(events, ear, types=[], since=Since(stream="before", seq=5))
        happen(events, 1)
        assert ear.told() == [(0, "gap")]

    @pytest.mark.parametrize("name", ["", "Ended", "session.ended", "worker", "*"])
    def test_a_type_that_is_none_is_named(self, events, name):
        with pytest.raises(InvalidParamsError) as refused:
            self.subscribe(events, Ear(), types=["ended", name])
        assert refused.value.path == "$.params.types[1]"
        assert "worker.joined" in (refused.value.expected or "")
        assert events.subscribers == 0


class Subscriptions(RuleBasedStateMachine):
    """One that comes and goes, with its last cursor each time, sees each event once, or a gap in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.starts = 0

    @initialize(
        limit=st.integers(1, 6), types=st.sets(st.sampled_from(["created", "ended", "store.up"]), min_size=1)
    )
    def begin(self, limit: int, types: set[str]) -> None:
        self.limit = limit
        self.types = frozenset(types)
        self.start()
        self.cursor = Cursor(self.events.stream, 0)

    def start(self) -> None:
        self.starts += 1
        self.events = Events(self.limit, f"stream-{self.starts}")
        self.ear: Ear | None = None
        self.witness = Ear()
        self.events.subscribe(self.witness, ALL, None, START_US)
        self.made: list[tuple[int, str]] = []
        self.seen: list[int] = []
        self.excused = {"restart": 0, "overrun": 0}

    def happen(self, types: list[Any], *, down: bool = True) -> None:
        for type_ in types:
            self.events.note(type_, START_US)
        if not down:
            self.events.drop_undone({})
        self.events.publish(MAX_UNSENT)
        told = self.witness.told()
        if down:
            assert [type_ for _, type_ in told] == types
        self.made += told

    def take(self) -> None:
        for each in self.ear.heard() if self.ear else ():
            if each["type"] == GAP:
                self.excused[each["reason"]] = each["seq"]
            else:
                assert each["type"] in self.types
                self.seen.append(each["seq"])
            self.cursor = Cursor(each["stream"], each["seq"])

    @rule(types=st.lists(st.sampled_from(["created", "ended", "turn", "store.up"]), max_size=4), down=st.booleans())
    def group(self, types: list[Any], down: bool) -> None:
        self.happen(types, down=down)
        self.take()

    @rule()
    def come(self) -> None:
        if self.ear is None:
            self.ear = Ear()
            self.events.subscribe(self.ear, self.types, self.cursor, START_US)
            self.happen([])
            self.take()

    @rule()
    def go(self) -> None:
        if self.ear is not None:
            self.events.unsubscribe(self.ear)
            self.ear = None

    @rule()
    def fall_behind(self) -> None:
        if self.ear is not None:
            self.ear.unsent_bytes = MAX_UNSENT + 1
            self.happen(["store.up"])
            assert self.ear.closed
            self.ear = None

    @rule()
    def another_daemon(self) -> None:
        self.start()

    @invariant()
    def each_once_or_a_gap(self) -> None:
        assert self.seen == sorted(set(self.seen))
        wanted = {seq for seq, type_ in self.made if type_ in self.types}
        assert set(self.seen) <= wanted
        if self.ear is not None:
            assert all(seq <= max(self.excused.values()) for seq in wanted - set(self.seen))

    @invariant()
    def an_overrun_is_only_told_where_something_was_lost(self) -> None:
        kept = [seq for seq, type_ in self.made if type_ != "turn"][-self.limit :]
        assert not self.excused["overrun"] or self.excused["overrun"] < kept[0]


Subscriptions.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=30)
TestSubscriptions = Subscriptions.TestCase
