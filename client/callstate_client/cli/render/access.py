"""Who may use a daemon, in a few lines of text. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from callstate_client.protocol.results import Setting

_SHARED = {
    "all": "everybody who may connect sees and changes every call",
    "group": "a call is its creator's, its creator's group's, and operators'",
    "uid": "a call is its creator's and operators'",
}


def access_lines(settings: Iterable[Setting]) -> list[str]:
    """What a daemon's configuration says about access; empty for a daemon that knows no users."""
    values = {each.key: each.value for each in settings if each.key.startswith("access.")}
    if "access.share" not in values:
        return []
    allow, operators = str(values.get("access.allow") or ""), str(values.get("access.operators") or "")
    share = str(values["access.share"])
    return [
        f"who may connect: {allow or 'whom the socket lets in'} (access.allow)",
        f"operators: root and the daemon's user{', ' + operators if operators else ''} (access.operators)",
        f"calls: {_SHARED.get(share, share)} (access.share = {share})",
    ]


def socket_line(path: str, mode: int, owner: str, group: str) -> str:
    """Whom a socket lets in.

    Args:
        path: of the socket.
        mode: st_mode.
        owner: its owner's name.
        group: its group's name.
    """
    whom = ["root", owner]
    if mode & 0o020:
        whom.append(f"the group {group}")
    if mode & 0o002:
        whom = ["everybody who can enter its directory"]
    names = dict.fromkeys(whom)
    return f"socket: {path}, mode {mode & 0o777:04o}, {owner}:{group}: lets in {', '.join(names)}"
