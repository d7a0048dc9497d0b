"""The command line of `callstated`: each flag that sets a key adds a (key, text, flag) to `settings`, in order."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from callstate_sidecar.config.reference import help_epilog
from callstate_sidecar.config.store_url import redact_url
from callstate_sidecar.system.host import own_version


class _Setting(argparse.Action):
    """Appends (key, text, flag), so that the later of `--store` and `--set store.url=…` counts."""

    def __init__(self, option_strings: Sequence[str], dest: str, key: str = "", **rest: Any) -> None:
        super().__init__(option_strings, dest, **rest)
        self.key = key

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: Any = None
    ) -> None:
        key, text = self.key, values
        if not key:
            key, equals, text = values.partition("=")
            if not equals:
                parser.error(f"{flag}: expected section.key=value, got {redact_url(values)!r}")
        namespace.settings.append((key.strip(), text, flag))


class _Version(argparse.Action):
    """Prints the version; looking it up takes longer than all the rest here."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: Any = None
    ) -> NoReturn:
        sys.stdout.write(f"callstated {own_version()}\n")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    """One whose help is written or fails: argparse itself ignores that, once the text is longer than a buffer."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments. An unknown one is named without a value, which may be a password.

    Raises:
        SystemExit: raised by argparse.
    """
    own = parser()
    args, unknown = own.parse_known_args(argv)
    if unknown:
        flag, equals, _ = unknown[0].partition("=")
        own.error(f"unrecognized arguments: {flag if equals and flag[0] == '-' else redact_url(unknown[0])}")
    return args


def parser() -> argparse.ArgumentParser:
    """The parser: `settings`, and the arguments that `load_config` returns."""
    parser = _Parser(
        prog="callstated",
        description="Keeps the state of live phone calls for the workers of one host.\n\n"
        "To inspect, verify, repair or export a journal: callstated journal --help",
        epilog=help_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(settings=[])
    parser.add_argument("--config", metavar="FILE", help="TOML file to read")
    for flag, metavar, key in (
        ("--socket", "PATH", "server.socket"),
        ("--state-dir", "DIR", "server.state_dir"),
        ("--store", "URL", "store.url"),
        ("--durability", "LEVEL", "journal.durability"),
        ("--log-level", "LEVEL", "log.level"),
        ("--log-format", "FORMAT", "log.format"),
    ):
        parser.add_argument(flag, metavar=metavar, action=_Setting, key=key, dest="settings", help=f"set {key}")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action=_Setting, dest="settings", help="set any key; may be repeated"
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    return parser
