"""`callstate install-units`: writes or removes the units, and has systemd take notice."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from callstate_client.cli import output
from callstate_client.cli.command import Command
from callstate_client.cli.install_units import files, program
from callstate_client.cli.install_units.files import Outcome, Step
from callstate_client.cli.output import Output
from callstate_client.cli.stdio import FAILED
from callstate_client.cli.version import package_version
from callstate_client.new_files import open_new

UNITS: Final = ("callstate.socket", "callstate.service")
_INSTANCES: Final = ("callstate@*.socket", "callstate@*.service")
_SUFFIXES: Final = (".socket", ".service")

# What systemd has to do with new files. All of it can be repeated.
_TAKE_NOTICE: Final = (
    ("systemd-sysusers", "callstate.conf"),
    ("systemd-tmpfiles", "--create", "callstate.conf"),
    ("systemctl", "daemon-reload"),
)
_BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)


def _install_units(args: argparse.Namespace, out: Output) -> int:
    root = args.root.absolute()
    here = root == Path("/")
    if here and not args.dry_run and os.geteuid() != 0:
        output.error("only root may write to /etc: use sudo, or --dry-run, or --root DIR")
        return FAILED
    try:
        if args.remove:
            return _remove(root, args, out)
        return _install(root, args, out)
    except (program.UnusableError, subprocess.CalledProcessError) as error:
        output.error(str(error))
        return FAILED


def _install(root: Path, args: argparse.Namespace, out: Output) -> int:
    found = (args.callstated or program.installed()).absolute()
    path = program.inside(root, found)
    program.check_path(path)
    if root == Path("/") and args.callstated is None:
        program.check_here(path)
    steps = list(files.installation(root, path, package_version(), args.drop_ins))
    _report(steps, out, dry_run=args.dry_run)
    if args.dry_run:
        return 0
    _write(steps)
    _tell_systemd(root, _TAKE_NOTICE)
    if not out.as_json:
        out.text(_next_steps(root, any(step.writes for step in steps)))
    return 0


def _remove(root: Path, args: argparse.Namespace, out: Output) -> int:
    steps = list(files.removal(root))
    left = [*files.left(root), "the user and the group callstate"]
    _report(steps, out, dry_run=args.dry_run, left=left)
    if not args.dry_run and steps:
        _stop(root, [step.path.name for step in steps if step.removes and step.path.suffix in _SUFFIXES])
        _write(steps)
        with contextlib.suppress(OSError):
            (root / files.DROP_IN_DIR).rmdir()  # if nothing of the operator's is in it
        _tell_systemd(root, [("systemctl", "daemon-reload")])
    if not out.as_json:
        out.text("" if steps else "no units of callstate are installed")
        for each in left:
            out.text(f"left: {each}")
    return 0


def _stop(root: Path, units: Sequence[str]) -> None:
    """Stop and disable units, which without their files can't be done by their names any more."""
    running = [name for name in units if "@" not in name]  # a template runs as its instances only
    _tell_systemd(root, [("systemctl", "stop", *running, *_INSTANCES)])
    if units:
        _tell_systemd(root, [("systemctl", "disable", *units)])


def _report(steps: Iterable[Step], out: Output, *, dry_run: bool, left: Sequence[str] = ()) -> None:
    if out.as_json:
        document = [{"path": str(step.path), "outcome": step.outcome.value} for step in steps]
        out.document({"dry_run": dry_run, "files": document, "left": left})
        return
    for step in steps:
        note = ""
        if step.keeps_aside:
            note = f"  (it was edited: kept as {files.aside(step.path).name})"
        elif step.outcome is Outcome.KEEP:
            note = f"  ({'a link' if step.path.is_symlink() else 'configuration'} is never overwritten)"
        out.text(f"{step.outcome.value:<9}  {step.path}{note}")
    if dry_run:
        out.text("\nnothing was done")


def _write(steps: Iterable[Step]) -> None:
    for step in steps:
        if step.keeps_aside:
            step.path.rename(files.aside(step.path))
        elif step.outcome is Outcome.REMOVE:
            step.path.unlink()
        if step.writes:
            step.path.parent.mkdir(parents=True, exist_ok=True)
            _replace(step.path, step.text)


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by all."""
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(open_new(new), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o644)  # whatever the umask
    new.rename(path)


def _tell_systemd(root: Path, commands: Iterable[Sequence[str]]) -> None:
    """Run commands, where a systemd runs that they concern: not for an image, and not while one is built."""
    if root != Path("/") or not _BOOTED.exists():
        return
    for command in commands:
        subprocess.run(command, check=True)  # noqa: S603 - constants


def _next_steps(root: Path, changed: bool) -> str:
    systemctl = "systemctl" if root == Path("/") else f"systemctl --root={root}"
    lines = [
        "",
        "next:",
        f"  {systemctl} enable {'--now ' if root == Path('/') else ''}{' '.join(UNITS)}",
        "  usermod -aG callstate USER          # for each user whose workers may connect",
    ]
    if changed and root == Path("/"):
        lines.append("  systemctl try-restart callstate     # if it runs already; its clients wait meanwhile")
    return "\n".join(lines)


def _add(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--remove", action="store_true", help="stop and remove the units; calls and configuration are kept"
    )
    what.add_argument(
        "--drop-in",
        metavar="NAME",
        choices=files.drop_ins(),
        action="append",
        default=[],
        dest="drop_ins",
        help=f"also install this drop-in for callstate.service: {', '.join(files.drop_ins())}; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--root",
        metavar="DIR",
        type=Path,
        default=Path("/"),
        help="root directory of the system to install into, such as that of an image (default: /)",
    )
    parser.add_argument(
        "--callstated",
        metavar="PATH",
        type=Path,
        help="the program that the units start (default: the one installed beside this)",
    )


COMMAND: Final = Command(
    "install-units",
    "install systemd's units for callstated, or remove them",
    run_alone=_install_units,
    add=_add,
    description="Install systemd's units for the callstated that is installed beside this program. It can be"
    " repeated, as after an upgrade: configuration is never overwritten, and a unit that was edited is kept aside.",
)
