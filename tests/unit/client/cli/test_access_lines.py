"""Who may use a daemon, as `callstate doctor` says it."""

from __future__ import annotations

from callstate_client.cli.render.access import access_lines, socket_line
from callstate_client.protocol.results import Setting


def settings(**access: str) -> list[Setting]:
    return [Setting(key=f"access.{key}", value=value, source="file", default="") for key, value in access.items()]


def test_the_settings_of_access_are_told_in_words() -> None:
    assert access_lines(settings(share="all", allow="", operators="")) == [
        "who may connect: whom the socket lets in (access.allow)",
        "operators: root and the daemon's user (access.operators)",
        "calls: everybody who may connect sees and changes every call (access.share = all)",
    ]
    assert access_lines(settings(share="uid", allow="ana, @voice", operators="@oncall")) == [
        "who may connect: ana, @voice (access.allow)",
        "operators: root and the daemon's user, @oncall (access.operators)",
        "calls: a call is its creator's and operators' (access.share = uid)",
    ]


def test_of_a_daemon_that_knows_no_users_nothing_is_told() -> None:
    assert access_lines([Setting(key="store.url", value="sqlite:", source="default", default="sqlite:")]) == []


def test_whom_a_socket_lets_in() -> None:
    assert socket_line("/run/s", 0o140660, "callstate", "voice").endswith(
        "mode 0660, callstate:voice: lets in root, callstate, the group voice"
    )
    assert socket_line("/run/s", 0o140600, "root", "root").endswith("lets in root")
    assert socket_line("/run/s", 0o140666, "root", "root").endswith("lets in everybody who can enter its directory")
