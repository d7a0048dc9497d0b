"""Whether other users could replace or change what lies at a path, judged as by OpenSSH's StrictModes.

Each directory on the way, from the root on, has to belong to this user or root, and nobody else may write to it.
For whoever can write to a directory can put a file or a link of his own in place of what is in it, and everything
below is his. Symbolic links are followed one by one: both the directory in which a link lies and those to which it
leads are judged.

- In a sticky directory, such as /tmp, users can't remove what belongs to others: it may be writable by all, if the
  next directory is ours or root's.
- A group may write if nobody else is in it, as with the user private groups of Debian and Fedora, under whose umask
  of 0002 every directory is writable by a group.
- The owner of a file from outside of a user namespace has no number in it. There it counts as root: whoever has
  made the namespace has chosen what is in it.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = 0
MAX_LINKS: Final = 40
"""As many as Linux follows (path_resolution(7))."""

_ACL: Final = "system.posix_acl_access"
_UID_MAP: Final = Path("/proc/self/uid_map")
_OVERFLOW_UID: Final = Path("/proc/sys/kernel/overflowuid")


class UnsafePathError(Exception):
    """Other users could replace or change the daemon's files; the message says where, and what mends it."""


class _Step(NamedTuple):
    """One component of a path."""

    path: Path
    found: os.stat_result


def check_path(path: Path, key: str, *, sticky: bool = False) -> None:
    """Check a directory or file and the directories above it, as far as they exist.

    Args:
        path: absolute.
        key: the configuration's key for it, for the message.
        sticky: whether it may itself be a sticky directory that all may write to.

    Raises:
        UnsafePathError: others could change what is in it.
        OSError: it can't be examined.
    """
    steps = [*_steps(path)]
    last = len(steps) - 1 if path.exists() else len(steps)
    trusted = frozenset({ROOT, os.geteuid(), *_unmapped()})
    for index, (at, found) in enumerate(steps):
        fault = _fault(at, found, trusted, sticky=sticky or index < last)
        if fault is not None:
            what, remedy = fault
            raise UnsafePathError(
                f"{key}: {path} is not safe from other users: {at} (owner {_name(found.st_uid)}, mode "
                f"{stat.S_IMODE(found.st_mode):04o}) {what}. Run: {remedy} {shlex.quote(str(at))}; or choose "
                "another place, or set server.strict_modes = false"
            )


def _steps(path: Path) -> Iterator[_Step]:
    """The components of a path from the root on, links resolved one by one, up to the first that is missing."""
    at, left, links = Path("/"), [*path.parts[1:]], 0
    yield _Step(at, at.lstat())
    while left:
        part = left.pop(0)
        if part == "..":
            at = at.parent  # it was judged on the way down
            continue
        try:
            found = (at / part).lstat()
        except FileNotFoundError:
            return
        kind = stat.S_IFMT(found.st_mode)
        if kind not in (stat.S_IFDIR, stat.S_IFLNK) and (left or kind != stat.S_IFREG):
            return  # whoever opens the path gets an error that says so
        yield _Step(at / part, found)
        if kind != stat.S_IFLNK:
            at = at / part
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = Path((at / part).readlink())
        if target.is_absolute():
            at = Path("/")
        left[:0] = [name for name in target.parts if name != "/"]


def _fault(at: Path, found: os.stat_result, trusted: frozenset[int], *, sticky: bool) -> tuple[str, str] | None:
    """What is wrong with one component, and the command that mends it; None if nothing is."""
    if found.st_uid not in trusted:
        option = "-h " if stat.S_ISLNK(found.st_mode) else ""
        return "belongs to somebody else", f"chown {option}{_name(os.geteuid())}"
    if stat.S_ISLNK(found.st_mode) or (sticky and found.st_mode & stat.S_ISVTX):
        return None
    if found.st_mode & stat.S_IWOTH:
        return "can be written to by every user", "chmod go-w"
    if found.st_mode & stat.S_IWGRP and not _is_private_group(at, found.st_gid, trusted):
        return f"can be written to by group {_group(found.st_gid)}", "chmod g-w"
    return None


def _is_private_group(at: Path, gid: int, trusted: frozenset[int]) -> bool:
    """Whether a group has members, and all of them are trusted."""
    if _has_acl(at):
        return False  # the group's permissions are then the most that any user or group in the list may have
    try:
        named = [pwd.getpwnam(name).pw_uid for name in grp.getgrgid(gid).gr_mem]
    except KeyError:
        return False
    members = {*named, *(user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid)}
    return bool(members) and members <= trusted


def _has_acl(at: Path) -> bool:
    try:
        return bool(os.getxattr(at, _ACL)) if hasattr(os, "getxattr") else False
    except OSError:
        return False


def _unmapped() -> set[int]:
    """The uid that stands for owners outside of the user namespace; none in the initial one."""
    try:
        mapped = [[int(number) for number in line.split()] for line in _UID_MAP.read_text("ascii").splitlines()]
        overflow = int(_OVERFLOW_UID.read_text("ascii"))
    except (OSError, ValueError):  # not Linux
        return set()
    return set() if any(first <= overflow < first + count for first, _, count in mapped) else {overflow}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
