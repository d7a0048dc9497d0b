from __future__ import annotations

import pytest

from callstate_client.engine.user import NOBODY, UNKNOWN, User
from callstate_sidecar.access.policy import Policy, Share
from callstate_sidecar.access.principals import Principals

ALICE = User(1001, 100, frozenset({100}))
BOB = User(1002, 200, frozenset({200, 100}))
CAROL = User(1003, 300, frozenset({300}))
IN_GROUP = User(UNKNOWN, 100, frozenset({100}))
ROOT = User(0, 0, frozenset({0}))


@pytest.mark.parametrize(
    ("share", "user", "seen"),
    [
        # sessions: of alice; of nobody known; of somebody in alice's group whose uid is not known
        ("all", ALICE, (True, True, True)),
        ("all", CAROL, (True, True, True)),
        ("all", NOBODY, (True, True, True)),
        ("uid", ALICE, (True, True, False)),
        ("uid", BOB, (False, True, False)),
        ("uid", CAROL, (False, True, False)),
        ("uid", NOBODY, (False, True, False)),
        ("uid", IN_GROUP, (False, True, False)),
        ("group", ALICE, (True, True, True)),
        ("group", BOB, (True, True, True)),
        ("group", CAROL, (False, True, False)),
        ("group", NOBODY, (False, True, False)),
        ("group", IN_GROUP, (True, True, True)),
    ],
)
def test_whose_a_session_is(share: Share, user: User, seen: tuple[bool, bool, bool]) -> None:
    policy = Policy(share=share)
    creators = ((ALICE.uid, ALICE.gid), (UNKNOWN, UNKNOWN), (UNKNOWN, ALICE.gid))
    assert tuple(policy.owns(user, uid, gid) for uid, gid in creators) == seen


@pytest.mark.parametrize(
    ("share", "may"),
    [
        ("all", {ALICE: True, NOBODY: True, IN_GROUP: True}),
        ("uid", {ALICE: True, NOBODY: False, IN_GROUP: False}),
        ("group", {ALICE: True, NOBODY: False, IN_GROUP: True}),
    ],
)
def test_who_may_create_a_session(share: Share, may: dict[User, bool]) -> None:
    assert {user: Policy(share=share).may_create(user) for user in may} == may


def test_who_is_an_operator() -> None:
    policy = Policy(operators=Principals(frozenset({CAROL.uid}), frozenset({BOB.gid})), own_uid=4000)
    assert [policy.is_operator(user) for user in (ROOT, User(4000), CAROL, BOB, ALICE, NOBODY)] == [
        True, True, True, True, False, False,
    ]  # fmt: skip
    assert not policy.is_operator(User(UNKNOWN, BOB.gid, BOB.groups))


def test_who_may_connect() -> None:
    everybody = Policy()
    assert all(everybody.admits(user) for user in (ROOT, ALICE, NOBODY))
    some = Policy(allow=Principals(frozenset({CAROL.uid}), frozenset({100})), own_uid=4000)
    assert [some.admits(user) for user in (ROOT, User(4000), CAROL, ALICE, BOB, IN_GROUP, User(1004), NOBODY)] == [
        True, True, True, True, True, True, False, False,
    ]  # fmt: skip


def test_nothing_is_restricted_by_default() -> None:
    assert not Policy().restricts
    assert not Policy(allow=Principals()).restricts
    assert Policy(share="group").restricts
    assert Policy(operators=Principals(frozenset({1}))).restricts
