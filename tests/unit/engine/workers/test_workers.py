"""Workers: the table of transitions, who may have an id, and whose exit says what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from callstate_client.engine.process import Process
from callstate_client.engine.workers.states import TRANSITIONS, WorkerEvidence, WorkerOutcome, WorkerState
from callstate_client.engine.workers.workers import AGAIN, Registration, Workers
from callstate_client.errors import ConflictError, ForbiddenError

GRACE_S = 5.0
A = Process(10, 100, "boot", 1)
B = Process(11, 200, "boot", 2)
RECYCLED = Process(10, 300, "boot", 3)
JOINED = Registration(WorkerOutcome.NOTHING, joined=True, watch=True)
JOINED_UNWATCHED = Registration(WorkerOutcome.NOTHING, joined=True, watch=False)


def in_state(state: WorkerState, *, pidfd: bool = True, process: Process | None = A) -> Workers:
    """Worker "w", which has (or had) connection 1."""
    workers = Workers(GRACE_S)
    if state is WorkerState.RESTORED:
        workers.restored("w", process, pidfd=pidfd)
    elif state is not WorkerState.GONE:
        workers.register("w", 1, process, pidfd=pidfd)
        if state is WorkerState.AWAY:
            workers.closed(1, 0.0)
        elif state is WorkerState.EXITED:
            assert process is not None
            workers.exited("w", process)
    assert workers.state("w") is state
    return workers


def learn(workers: Workers, evidence: WorkerEvidence) -> WorkerOutcome:
    """Bring the evidence about as a daemon would."""
    if evidence is WorkerEvidence.REGISTERED:
        registration = workers.register("w", 2, A, pidfd=True)
        assert registration.replaced is WorkerOutcome.NOTHING
        return WorkerOutcome.JOINED if registration.joined else WorkerOutcome.NOTHING
    if evidence is WorkerEvidence.SUPERSEDED:
        registration = workers.register("w", 2, B, pidfd=True)
        assert registration.joined
        assert registration.watch
        return registration.replaced
    if evidence is WorkerEvidence.DISCONNECTED:
        return workers.closed(1, 0.0)
    if evidence is WorkerEvidence.PROCESS_EXITED:
        return workers.exited("w", A)
    if evidence is WorkerEvidence.GRACE_OVER:
        return WorkerOutcome.LEFT_DISCONNECTED if workers.due(GRACE_S) == ["w"] else WorkerOutcome.NOTHING
    workers.idle("w")
    return WorkerOutcome.NOTHING


# Only one that is away has a grace, only one that is there has connections to close, and who comes under the id of
# one that is connected is refused; under an id nobody has, nobody is superseded.
IMPOSSIBLE = {
    *((state, WorkerEvidence.GRACE_OVER) for state in WorkerState if state is not WorkerState.AWAY),
    *((state, WorkerEvidence.DISCONNECTED) for state in (WorkerState.AWAY, WorkerState.RESTORED, WorkerState.GONE)),
    (WorkerState.CONNECTED, WorkerEvidence.SUPERSEDED),
    (WorkerState.GONE, WorkerEvidence.SUPERSEDED),
}


def test_the_table_says_what_follows_from_everything_that_can_be() -> None:
    every = {(state, evidence) for state in WorkerState for evidence in WorkerEvidence}
    assert TRANSITIONS.keys() == every - IMPOSSIBLE


@pytest.mark.parametrize(("case", "then"), TRANSITIONS.items(), ids=str)
def test_each_transition_is_made(
    case: tuple[WorkerState, WorkerEvidence], then: tuple[WorkerState, WorkerOutcome]
) -> None:
    state, evidence = case
    after, outcome = then
    # who is watched and lives is not superseded, so those two are shown without a pidfd
    superseded = evidence is WorkerEvidence.SUPERSEDED
    workers = in_state(state, pidfd=not superseded or state is WorkerState.EXITED)
    assert learn(workers, evidence) is outcome
    assert workers.state("w") is (WorkerState.CONNECTED if superseded else after)  # the newcomer has the id at once
    assert workers.is_connected("w") is (superseded or after in (WorkerState.CONNECTED, WorkerState.EXITED))
    assert len(workers) == (0 if after is WorkerState.GONE and not superseded else 1)


@pytest.mark.parametrize("state", list(WorkerState))
def test_an_impossible_transition_changes_nothing(state: WorkerState) -> None:
    workers = in_state(state)
    assert workers.closed("a connection that never registered", 0.0) is WorkerOutcome.NOTHING
    assert workers.exited("w", B) is WorkerOutcome.NOTHING
    if state is not WorkerState.AWAY:
        assert workers.due(1e9) == []
    assert workers.state("w") is state


# -- connections and the grace -----------------------------------------------------------------------------------


def test_only_the_first_connection_joins() -> None:
    workers = Workers(GRACE_S)
    assert workers.register("w", 1, A, pidfd=True) == JOINED
    assert workers.register("w", 1, A, pidfd=True) == AGAIN
    assert workers.register("w", 2, A, pidfd=True) == AGAIN
    assert (len(workers), workers.unwatched, workers.process_of("w")) == (1, 0, A)
    assert (workers.worker_of(1), workers.worker_of(2), workers.worker_of(3)) == ("w", "w", None)


def test_a_connection_keeps_its_id() -> None:
    workers = in_state(WorkerState.CONNECTED)
    with pytest.raises(ForbiddenError):
        workers.register("another", 1, A, pidfd=True)
    assert workers.state("another") is WorkerState.GONE
    assert workers.worker_of(1) == "w"


def test_a_worker_is_away_when_its_last_connection_closed() -> None:
    workers = in_state(WorkerState.CONNECTED)
    workers.register("w", 2, A, pidfd=True)
    workers.closed(1, 0.0)
    assert workers.state("w") is WorkerState.CONNECTED
    workers.closed(2, 7.0)
    assert workers.state("w") is WorkerState.AWAY
    assert workers.due(7.0 + GRACE_S - 0.001) == []
    assert workers.due(7.0 + GRACE_S) == ["w"]
    assert workers.due(1e9) == []


def test_a_worker_that_reconnects_with_its_old_id_was_never_away() -> None:
    workers = in_state(WorkerState.AWAY)
    assert workers.register("w", 2, A, pidfd=True) == AGAIN
    assert workers.due(1e9) == []
    workers.closed(2, 100.0)
    assert workers.due(100.0 + GRACE_S - 0.001) == []  # a grace of its own each time
    assert workers.due(100.0 + GRACE_S) == ["w"]


def test_a_worker_that_returns_after_the_grace_joins_again() -> None:
    workers = in_state(WorkerState.AWAY)
    assert workers.due(GRACE_S) == ["w"]
    assert workers.exited("w", A) is WorkerOutcome.NOTHING  # its watch may still be told
    assert workers.register("w", 2, A, pidfd=True) == JOINED


def test_the_grace_is_as_long_when_the_clock_steps_back() -> None:
    """The reaper's clock does, when it takes a stall out that was not noticed before."""
    workers = Workers(GRACE_S)
    for worker_id, process in (("early", A), ("late", B)):
        workers.register(worker_id, worker_id, process, pidfd=True)
    workers.closed("early", 3600.0)
    workers.closed("late", 3.0)
    assert workers.due(3.0 + GRACE_S - 0.001) == []
    assert workers.due(3.0 + GRACE_S) == ["early", "late"]


def test_the_clock_steps_back_at_the_look() -> None:
    workers = Workers(GRACE_S)
    workers.register("w", 1, A, pidfd=True)
    workers.closed(1, 3600.0)
    assert workers.due(10.0) == []
    assert workers.due(10.0 + GRACE_S) == ["w"]


def test_the_grace_can_be_changed() -> None:
    workers = in_state(WorkerState.AWAY)
    workers.reconnect_grace_s = 1.0
    assert workers.due(1.0) == ["w"]


# -- two processes with one id -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "pidfd"),
    [
        (WorkerState.CONNECTED, True),
        (WorkerState.CONNECTED, False),
        (WorkerState.AWAY, True),
        (WorkerState.RESTORED, True),
    ],
    ids=str,
)
def test_a_second_live_process_is_refused(state: WorkerState, pidfd: bool) -> None:
    workers = in_state(state, pidfd=pidfd)
    with pytest.raises(ConflictError) as caught:
        workers.register("w", 2, B, pidfd=True)
    assert caught.value.owner == "w"
    assert workers.state("w") is state
    assert workers.process_of("w") == A
    assert workers.worker_of(2) is None
    assert workers.register("another", 2, B, pidfd=True) == JOINED  # nothing of it was kept


def test_a_process_with_an_id_of_its_own_does_not_get_a_second_one_that_is_taken() -> None:
    workers = in_state(WorkerState.CONNECTED)
    workers.register("another", 2, B, pidfd=True)
    with pytest.raises(ConflictError):
        workers.register("w", 3, B, pidfd=True)
    assert workers.process_of("w") == A
    assert workers.process_of("another") == B


def test_the_successor_of_a_dead_process_has_the_id_at_once() -> None:
    workers = in_state(WorkerState.AWAY)
    workers.exited("w", A)
    assert workers.register("w", 2, B, pidfd=True) == JOINED


def test_a_process_not_known_to_be_another_is_taken_for_the_same() -> None:
    workers = in_state(WorkerState.CONNECTED)
    assert workers.register("w", 2, None, pidfd=False) == AGAIN
    assert workers.process_of("w") == A
    workers.closed(1, 0.0)
    assert workers.state("w") is WorkerState.CONNECTED


def test_facts_unknown_at_first_are_learned_from_a_later_connection() -> None:
    workers = in_state(WorkerState.CONNECTED, process=None, pidfd=False)
    assert workers.unwatched == 1
    assert workers.register("w", 2, A, pidfd=True) == Registration(WorkerOutcome.NOTHING, joined=False, watch=True)
    assert (workers.unwatched, workers.process_of("w")) == (0, A)


def test_a_process_without_marks_gets_them_when_they_can_be_read() -> None:
    workers = in_state(WorkerState.CONNECTED, process=Process(10, boot_id="boot"), pidfd=False)
    assert workers.register("w", 2, A, pidfd=True).watch
    assert workers.process_of("w") == A


# -- exits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exit_first", [True, False])
def test_a_killed_worker_has_exited_whichever_evidence_comes_first(exit_first: bool) -> None:
    workers = in_state(WorkerState.CONNECTED)
    if exit_first:
        told = [workers.exited("w", A), workers.closed(1, 0.0)]
    else:
        told = [workers.closed(1, 0.0), workers.exited("w", A)]
    assert told == [WorkerOutcome.NOTHING, WorkerOutcome.LEFT_EXITED]
    assert len(workers) == 0


def test_a_child_that_inherited_the_connection_keeps_the_worker_until_it_closes() -> None:
    workers = in_state(WorkerState.EXITED)
    assert workers.due(1e9) == []
    assert workers.is_connected("w")
    assert workers.closed(1, 1e9) is WorkerOutcome.LEFT_EXITED


def test_a_successor_does_not_wait_for_the_child_of_its_predecessor() -> None:
    workers = in_state(WorkerState.EXITED)
    assert workers.register("w", 2, B, pidfd=True) == Registration(
        WorkerOutcome.LEFT_EXITED, joined=True, watch=True
    )
    assert workers.worker_of(1) is None
    assert workers.closed(1, 0.0) is WorkerOutcome.NOTHING
    assert workers.state("w") is WorkerState.CONNECTED
    assert workers.exited("w", A) is WorkerOutcome.NOTHING
    assert workers.exited("w", B) is WorkerOutcome.NOTHING
    assert workers.closed(2, 0.0) is WorkerOutcome.LEFT_EXITED


def test_a_successor_need_not_be_known_to_follow_a_dead_process() -> None:
    workers = in_state(WorkerState.EXITED)
    assert workers.register("w", 2, None, pidfd=False) == Registration(
        WorkerOutcome.LEFT_EXITED, joined=True, watch=False
    )


def test_the_last_requests_of_a_dead_process_count_as_its_own() -> None:
    workers = in_state(WorkerState.EXITED)
    assert workers.register("w", 2, A, pidfd=True) == AGAIN
    assert workers.closed(1, 0.0) is WorkerOutcome.NOTHING
    assert workers.closed(2, 0.0) is WorkerOutcome.LEFT_EXITED


# -- pid reuse ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state", [WorkerState.CONNECTED, WorkerState.EXITED, WorkerState.AWAY, WorkerState.RESTORED]
)
@pytest.mark.parametrize("pidfd", [True, False])
def test_a_recycled_pid_proves_that_its_old_process_has_exited(state: WorkerState, pidfd: bool) -> None:
    workers = in_state(state, pidfd=pidfd)
    registration = workers.register("w", 2, RECYCLED, pidfd=True)
    assert registration == Registration(WorkerOutcome.LEFT_EXITED, joined=True, watch=True)
    assert workers.process_of("w") == RECYCLED
    assert workers.exited("w", A) is WorkerOutcome.NOTHING  # told late: not of this one
    assert workers.closed(2, 0.0) is WorkerOutcome.NOTHING
    assert workers.state("w") is WorkerState.AWAY


@pytest.mark.parametrize(
    "state", [WorkerState.CONNECTED, WorkerState.EXITED, WorkerState.AWAY, WorkerState.RESTORED]
)
def test_a_recycled_pid_under_another_id_is_no_proxy(state: WorkerState) -> None:
    workers = in_state(state)
    assert workers.register("another", 2, RECYCLED, pidfd=True) == JOINED
    assert workers.unwatched == 0
    workers.exited("w", A)
    workers.closed(1, 0.0)
    assert workers.state("w") is WorkerState.GONE
    assert workers.process_of("another") == RECYCLED
    assert workers.register("a third", 3, RECYCLED, pidfd=True) == JOINED_UNWATCHED  # it is still known for its pid


def test_a_recycled_pid_without_marks_is_no_proxy_where_its_process_is_known_dead() -> None:
    bare = Process(10, boot_id="boot")
    workers = in_state(WorkerState.EXITED, process=bare)
    assert workers.register("another", 2, bare, pidfd=True) == JOINED
    assert workers.closed(1, 0.0) is WorkerOutcome.LEFT_EXITED
    assert workers.process_of("another") == bare


# -- peers whose exit says nothing ---------------------------------------------------------------------------------


def test_without_a_known_process_there_are_connections_and_the_grace() -> None:
    """Peer pid 0: another PID namespace."""
    workers = Workers(GRACE_S)
    assert workers.register("w", 1, None, pidfd=False) == JOINED_UNWATCHED
    assert (len(workers), workers.unwatched, workers.process_of("w")) == (1, 1, None)
    assert workers.closed(1, 0.0) is WorkerOutcome.NOTHING
    assert workers.register("w", 2, None, pidfd=False) == AGAIN
    workers.closed(2, 1.0)
    assert workers.due(1.0 + GRACE_S) == ["w"]


def test_one_pid_under_several_ids_is_not_watched() -> None:
    workers = in_state(WorkerState.CONNECTED)
    assert workers.register("x", 2, A, pidfd=True) == JOINED_UNWATCHED
    assert workers.unwatched == 2
    assert workers.process_of("w") is None
    assert workers.exited("w", A) is WorkerOutcome.NOTHING
    workers.closed(1, 0.0)
    assert workers.state("w") is WorkerState.AWAY
    assert workers.exited("w", A) is WorkerOutcome.NOTHING
    assert workers.due(GRACE_S) == ["w"]
    # the pid stays a proxy's as long as anybody comes through it
    assert workers.register("y", 3, A, pidfd=True) == JOINED_UNWATCHED
    workers.closed(2, 10.0)
    workers.closed(3, 10.0)
    assert workers.due(10.0 + GRACE_S) == ["x", "y"]
    assert workers.register("w", 4, A, pidfd=True) == JOINED


def test_workers_that_are_all_of_one_process_die_with_it() -> None:
    workers = Workers(GRACE_S)
    for number, worker_id in enumerate(("v", "w", "x")):
        assert workers.register(worker_id, number, A, pidfd=True, own_name="p1") == JOINED
    assert workers.unwatched == 0
    for number, worker_id in enumerate(("v", "w", "x")):
        assert workers.own_name_of(worker_id) == "p1"
        workers.closed(number, 0.0)
        assert workers.exited(worker_id, A) is WorkerOutcome.LEFT_EXITED


@pytest.mark.parametrize("names", [("p1", "p2"), ("p1", ""), ("", "p1"), ("", "")])
def test_workers_of_several_processes_behind_one_pid_are_behind_a_proxy(names: tuple[str, str]) -> None:
    workers = Workers(GRACE_S)
    workers.register("w", 1, A, pidfd=True, own_name=names[0])
    assert workers.register("x", 2, A, pidfd=True, own_name=names[1]) == JOINED_UNWATCHED
    assert workers.register("y", 3, A, pidfd=True, own_name=names[1]) == JOINED_UNWATCHED
    assert workers.unwatched == 3
    assert workers.exited("w", A) is WorkerOutcome.NOTHING


def test_the_workers_behind_a_proxy_may_come_back_through_its_successor() -> None:
    workers = in_state(WorkerState.CONNECTED)
    workers.register("x", 2, A, pidfd=True)
    workers.closed(1, 0.0)
    workers.closed(2, 0.0)
    assert workers.register("w", 3, B, pidfd=True) == Registration(WorkerOutcome.NOTHING, joined=False, watch=True)
    assert workers.register("x", 4, B, pidfd=True) == AGAIN
    assert workers.unwatched == 2


HERE_NONE, OTHER_NONE = Process(0, 0, "boot", 7), Process(0, 0, "boot", 8)


def test_processes_without_a_pid_are_distinguished_by_their_inodes() -> None:
    """Of PID namespaces that the daemon's does not see."""
    workers = Workers(GRACE_S)
    assert workers.register("w", 1, HERE_NONE, pidfd=True) == JOINED
    assert workers.register("w", 2, HERE_NONE, pidfd=True) == AGAIN
    with pytest.raises(ConflictError):
        workers.register("w", 3, OTHER_NONE, pidfd=True)
    assert workers.register("x", 4, OTHER_NONE, pidfd=True) == JOINED, "no proxy: it is another process"
    assert workers.unwatched == 0
    workers.closed(1, 0.0)
    workers.closed(2, 0.0)
    assert workers.exited("w", HERE_NONE) is WorkerOutcome.LEFT_EXITED
    assert workers.register("w", 5, OTHER_NONE, pidfd=True) == JOINED_UNWATCHED, "two ids of one process"


# -- restarts of the daemon ----------------------------------------------------------------------------------------


def test_a_restored_worker_waits_for_no_grace() -> None:
    workers = Workers(GRACE_S)
    assert workers.restored("w", A, pidfd=True) is True
    assert workers.due(1e9) == []
    assert not workers.is_connected("w")
    assert workers.register("w", 1, A, pidfd=True) == Registration(WorkerOutcome.NOTHING, joined=True, watch=False)


def test_a_restored_worker_is_found_again_with_fewer_marks() -> None:
    """The first daemon could read /proc, the second may not."""
    workers = in_state(WorkerState.RESTORED)
    assert workers.register("w", 1, replace(A, start_ticks=0, pidfs_inode=0), pidfd=True).joined
    assert workers.process_of("w") == A


def test_restored_workers_of_one_pid_are_not_watched() -> None:
    workers = in_state(WorkerState.RESTORED)
    assert workers.restored("x", A, pidfd=True) is False
    assert workers.unwatched == 2


def test_restored_workers_of_one_process_are_watched() -> None:
    workers = Workers(GRACE_S)
    assert workers.restored("w", A, pidfd=True, own_name="p1") is True
    assert workers.restored("x", A, pidfd=True, own_name="p1") is True
    assert workers.exited("w", A) is WorkerOutcome.LEFT_EXITED
    assert workers.exited("x", A) is WorkerOutcome.LEFT_EXITED


def test_only_a_restored_worker_is_forgotten_for_having_no_sessions() -> None:
    for state in WorkerState:
        workers = in_state(state)
        assert workers.idle("w") is (state is WorkerState.RESTORED)
        assert len(workers) == (state not in (WorkerState.RESTORED, WorkerState.GONE))


# -- size ----------------------------------------------------------------------------------------------------------


def test_ids_that_have_left_take_no_room() -> None:
    workers = Workers(GRACE_S)
    kept = []
    for turn in range(3000):
        worker_id, process = f"w{turn}", Process(2 + turn % 50, 10 + turn, "boot", turn)
        assert workers.register(worker_id, turn, process, pidfd=bool(turn % 3)).joined
        if turn % 2:
            workers.exited(worker_id, process)
        workers.closed(turn, turn * 0.1)
        workers.due(turn * 0.1)
        kept.append(len(workers))
    assert 20 < max(kept) <= GRACE_S / 0.1 + 1
    workers.due(1e9)
    assert not any(content for content in vars(workers).values() if isinstance(content, dict))
