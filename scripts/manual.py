"""Write the manual pages and the shell completions, of the same parsers that `--help` is made of.

    python scripts/manual.py            write them into contrib/
    python scripts/manual.py --check    fail unless they are as they would be written

They are in the tree, so that whoever packages callstate needs nothing to make them, and a change of the command
line shows what it changes here. The wheel has them under share/, where man(1) and the shells look.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab

import man_page as man
from callstate_client.cli import arguments
from callstate_client.cli.command import EXITS, Command
from callstate_client.cli.commands.table import COMMANDS
from callstate_sidecar.config.arguments import parser as daemon_parser
from callstate_sidecar.config.options import OPTIONS, SECTIONS
from callstate_sidecar.config.reference import described, toml_value
from callstate_sidecar.journal.cli import parser as journal_parser
from callstate_sidecar.system.exits import Exit

ROOT = Path(__file__).parents[1]
CONTRIB = ROOT / "contrib"

SOCKETS = [
    ("$XDG_RUNTIME_DIR/callstate.sock", "where a user's own daemon listens."),
    ("/run/callstate/callstate.sock", "where the service listens."),
    ("/tmp/callstate-UID/callstate.sock", "where a daemon listens that finds neither."),  # noqa: S108
]
DAEMON_FILES = [
    ("/etc/callstate/callstate.toml", "the configuration that the service reads; see `callstate.toml`(5)."),
    ("/var/lib/callstate", "the state directory of the service: the journal, the SQLite file, the host's id."),
]
SIGNALS = [
    ("SIGTERM, SIGINT", "stop: flush to the store, write a checkpoint. A second one stops at once."),
    ("SIGHUP", "read the configuration again: limits, logging and the default timeout are applied."),
]  # fmt: skip

# One line an id. A word of the shell is passed on as it is, so `--socket` counts only as $CALLSTATE_SOCKET does.
IDS = "callstate --timeout 1 ls --columns id 2>/dev/null | tail -n +2"
COMPLETE_IDS = {"bash": "_callstate_ids", "zsh": "_callstate_ids", "fish": "(_callstate_ids)"}
PREAMBLE = {
    "bash": f'_callstate_ids() {{\n  compgen -W "$({IDS})" -- "$1"\n}}\n',
    "zsh": f'_callstate_ids() {{\n  local -a ids\n  ids=("${{(@f)$({IDS})}}")\n  compadd -a ids\n}}\n',
    "fish": f"function _callstate_ids\n  {IDS}\nend\n",
}


def callstate_page() -> str:
    """callstate(1)."""
    top = arguments.parser()

    def body() -> Iterator[str]:
        yield man.heading("synopsis")
        yield from man.synopsis(top)
        yield man.heading("description")
        yield from man.paragraph(
            "callstate shows what a callstated on this host holds, ends or deletes calls, and tells how the daemon "
            "is. It finds the daemon's socket as workers do, and says at once if there is none."
        )
        yield man.heading("options")
        yield from man.paragraph("All commands have these, before or after their name.")
        yield from man.options(top)
        yield man.heading("commands")
        for name, parser in man.commands(top):
            yield man.subheading(name)
            yield from man.synopsis(parser, common)
            yield from man.paragraph(parser.description or "")
            yield from man.options(parser, common)
            yield from _own_exits(name)
        yield man.heading("exit status")
        yield from man.exits(EXITS)
        yield man.heading("environment")
        yield from man.table([
            ("CALLSTATE_SOCKET", "the daemon's socket, where `--socket` is not given."),
            ("COLUMNS", "the width of tables, instead of the terminal's."),
            ("NO_COLOR", "if it is set, there are no colours."),
        ])  # fmt: skip
        yield man.heading("files")
        yield from man.table(SOCKETS)
        yield man.heading("examples")
        yield from man.example([
            "callstate ls --state suspect",
            "callstate ls --all --sort -age --columns id,status,age,reason",
            "callstate show CA0123456789abcdef0123456789abcdef",
            "callstate tail --type expired --json",
            "callstate health --ready",
            "callstate drain --wait 600",
        ])  # fmt: skip
        yield man.heading("see also")
        yield "\\fBcallstated\\fR(1), \\fBcallstate.toml\\fR(5)"

    common = man.names_of(top)
    return man.page("callstate", 1, "inspect and manage the live calls of callstated", body())


def _own_exits(name: str) -> Iterator[str]:
    """What exit codes mean for this command, if that is not what they mean for all."""
    found: Command | None = None
    for word in name.split():
        found = next(each for each in (COMMANDS if found is None else found.actions) if each.name == word)
    if found is not None and found.exits:
        yield from man.paragraph("Exit status:")
        yield from man.exits(found.exits)


def callstated_page() -> str:
    """callstated(1)."""

    def body() -> Iterator[str]:
        yield man.heading("synopsis")
        yield from man.synopsis(daemon_parser())
        for _, parser in man.commands(journal_parser()):
            yield from man.synopsis(parser)
        yield man.heading("description")
        yield from man.paragraph(
            "callstated keeps the state of live phone calls for the workers of one host. It serves them over a "
            "Unix socket, writes each change to a journal before it acknowledges it, copies it to SQLite or Redis "
            "behind that, and ends the calls of workers that have died."
        )
        yield from man.paragraph(
            "Flags take precedence over environment variables, these over the file, and that over defaults. "
            "`callstate.toml`(5) has all keys. Running, it is told what to do by signals and `callstate`(1)."
        )
        yield man.heading("options")
        yield from man.options(daemon_parser())
        yield man.heading("commands")
        for name, parser in man.commands(journal_parser()):
            yield man.subheading(f"journal {name}")
            yield from man.paragraph(parser.description or "")
            yield from man.options(parser)
        yield man.heading("exit status")
        yield from man.table((str(status.value), meaning) for status, meaning in STATUSES.items())
        yield man.heading("environment")
        yield from man.table([
            ("CALLSTATE_SECTION_KEY", "the value of a key: `CALLSTATE_STORE_URL` is `store.url`."),
            ("STATE_DIRECTORY, CREDENTIALS_DIRECTORY, LISTEN_FDS, NOTIFY_SOCKET", "as systemd sets them."),
        ])  # fmt: skip
        yield man.heading("signals")
        yield from man.table(SIGNALS)
        yield man.heading("files")
        yield from man.table([*DAEMON_FILES, *SOCKETS])
        yield man.heading("see also")
        yield "\\fBcallstate\\fR(1), \\fBcallstate.toml\\fR(5)"

    return man.page("callstated", 1, "keep the state of live phone calls", body())


STATUSES = {
    Exit.OK: "Stopped on request.",
    Exit.FAILED: "A failure that a restart may cure.",
    Exit.USAGE: "Wrong usage or configuration.",
    Exit.ALREADY_RUNNING: "Another daemon uses the socket, the journal or this host's id.",
    Exit.JOURNAL: "The journal is damaged, or of a newer version.",
}


def toml_page() -> str:
    """callstate.toml(5)."""

    def body() -> Iterator[str]:
        yield man.heading("description")
        yield from man.paragraph(
            "The configuration of `callstated`(1), which reads it with `--config`. Every key can also be given as "
            "`--set section.key=value` or as the environment variable `CALLSTATE_SECTION_KEY`. An unknown key or a "
            "wrong value is an error that names it; `callstated --check --config FILE` checks a file."
        )
        for section, struct in SECTIONS.items():
            yield man.heading(section)
            yield from man.paragraph(struct.__doc__ or "")
            yield from man.table(
                (f"{option.name} = {toml_value(option.default)}", described(option))
                for option in OPTIONS.values()
                if option.section == section
            )
        yield man.heading("see also")
        yield "\\fBcallstated\\fR(1)"

    return man.page("callstate.toml", 5, "configuration of callstated", body())


def completion(shell: str) -> str:
    """The completions of `callstate` in a shell; ids are asked of the daemon."""
    top = arguments.parser()
    for parser in (top, *(parser for _, parser in man.commands(top))):
        for action in parser._actions:
            if action.metavar == "ID":
                action.complete = COMPLETE_IDS  # type: ignore[attr-defined]
            elif action.metavar in ("PATH", "FILE", "DIR"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    text: str = shtab.complete(top, shell=shell, preamble=PREAMBLE)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def generated() -> dict[str, str]:
    """What belongs into each file, by its path beneath contrib/."""
    return {
        "man/callstate.1": callstate_page(),
        "man/callstated.1": callstated_page(),
        "man/callstate.toml.5": toml_page(),
        "completions/callstate.bash": completion("bash"),
        "completions/_callstate": completion("zsh"),
        "completions/callstate.fish": completion("fish"),
    }


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail unless they are current")
    check = parser.parse_args().check
    for name, text in generated().items():
        path = CONTRIB / name
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not current: run `make reference`\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
