from __future__ import annotations

import grp
import pwd

import pytest

from callstate_client.engine.user import UNKNOWN, User
from callstate_sidecar.access.configured import configured_policy
from callstate_sidecar.access.principals import principals
from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.config.schema import AccessConfig

DAEMON = pwd.getpwnam("daemon").pw_uid
DAEMONS = grp.getgrnam("daemon").gr_gid


def test_users_and_groups_are_named_or_numbered() -> None:
    found = principals("daemon, 1000 @daemon,@100,, 0", "access.allow")
    assert found == ({DAEMON, 1000, 0}, {DAEMONS, 100})
    assert principals(" , ", "access.allow") == (frozenset(), frozenset())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("no-such-user", "access.allow: no such user: 'no-such-user'; a group is written @NAME"),
        ("@no-such-group", "access.allow: no such group: 'no-such-group'"),
        ("-1", "access.allow: no such user: '-1'"),
        ("@", "access.allow: no such group: ''"),
        ("4294967295", "access.allow: '4294967295' does not identify a single user"),
        ("65534", "access.allow: '65534' does not identify a single user"),
        ("nobody", "access.allow: 'nobody' does not identify a single user"),
        ("@65534", "access.allow: '65534' does not identify a single group"),
    ],
)
def test_who_does_not_exist_is_an_error(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        principals(text, "access.allow")
    assert str(caught.value).startswith(fault)


def test_a_user_is_one_of_them_by_uid_or_group() -> None:
    some = principals("1000, @100", "access.allow")
    assert some.has(User(1000))
    assert some.has(User(7, 7, frozenset({7, 100})))
    assert not some.has(User(100, 1000, frozenset({1000})))
    assert not some.has(User(UNKNOWN, UNKNOWN))


def test_an_empty_list_allows_everybody() -> None:
    assert configured_policy(AccessConfig()).allow is None
    assert configured_policy(AccessConfig(allow=" , ")).allow is None
    assert configured_policy(AccessConfig(allow="daemon")).allow == ({DAEMON}, frozenset())
