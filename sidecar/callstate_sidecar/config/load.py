"""Loading the configuration: flags, then CALLSTATE_SECTION_KEY variables, then the TOML file, then defaults.

schema.py describes the keys. Arguments and environment are passed in.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from callstate_sidecar.config import store_url
from callstate_sidecar.config.redis_url import UrlOptionError
from callstate_sidecar.config.reference import help_epilog
from callstate_sidecar.config.schema import (
    OPTIONS,
    SECTIONS,
    Config,
    HostConfig,
    JournalConfig,
    LimitsConfig,
    LogConfig,
    Option,
    ReaperConfig,
    ServerConfig,
    StoreConfig,
)
from callstate_sidecar.config.store_url import check_store_url, redact_url
from callstate_sidecar.system.host import own_version

__all__ = [
    "Config",
    "ConfigError",
    "HostConfig",
    "JournalConfig",
    "LimitsConfig",
    "LogConfig",
    "ReaperConfig",
    "ServerConfig",
    "StoreConfig",
    "load_config",
    "redact_url",
    "resolve_password",
    "resolve_socket",
    "resolve_state_dir",
]

MAX_SOCKET_PATH_BYTES: Final = 107 if sys.platform == "linux" else 103
"""sun_path is 108 bytes on Linux and 104 on macOS and the BSDs, with the closing NUL (unix(7))."""

SOCKET_NAME: Final = "callstate.sock"
CREDENTIAL_NAME: Final = "redis-password"
"""Name of the Redis password in the unit's LoadCredential=."""

# What Kubernetes sets in every pod for a Service that happens to be called `callstate-store`.
_SERVICE_LINK: Final = re.compile(r"CALLSTATE_.*_(SERVICE_(HOST|PORT(_.*)?)|PORT_\d+_(TCP|UDP|SCTP)(_.*)?)\Z")


class ConfigError(Exception):
    """The configuration can't be used: names the key, what was expected and where the value is from."""


def load_config(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[Config, argparse.Namespace]:
    """Load the configuration.

    Args:
        argv: the arguments after the program's name.
        environ: environment variables; those not named CALLSTATE_SECTION_… are ignored.

    Returns:
        the configuration, and the arguments: `check` (only check the configuration), `config` (the TOML file's path
        or None) and `warnings` (to be logged once logging is configured).

    Raises:
        ConfigError: an unknown key, a wrong value, an unreadable file.
        SystemExit: of argparse: 0 after `--help` and `--version`, 2 for unknown flags.
    """
    args = _parser().parse_args(argv)
    values: dict[str, Any] = {}
    if args.config is not None:
        values.update(_read_file(Path(args.config)))
    values.update(_read_environ(environ))
    for key, text, flag in args.settings:
        values[key] = _checked(_option(key, flag), text, flag, strict=False)
    args.warnings = [
        f"{flag}: every user of this host can see a password on the command line; use store.password_file"
        for key, text, flag in args.settings
        if key == "store.url" and redact_url(text) != text
    ]
    args.settings = None  # may hold a password
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    return msgspec.convert(sections, Config), args


def resolve_socket(config: Config, environ: Mapping[str, str]) -> Path:
    """Where to listen when systemd passes no socket: `server.socket`, else $XDG_RUNTIME_DIR, else /tmp.

    The caller has to create the directory of the last, /tmp/callstate-<uid>, with mode 0700, or to check it.

    Raises:
        ConfigError: the path is too long for a Unix socket.
    """
    runtime_dir = environ.get("XDG_RUNTIME_DIR", "")
    if config.server.socket:
        path = Path(config.server.socket)
    elif Path(runtime_dir).is_absolute() and Path(runtime_dir).is_dir():
        path = Path(runtime_dir, SOCKET_NAME)
    else:
        # clients look there too, but only in a directory that they own and that has mode 0700
        path = Path(f"/tmp/callstate-{os.getuid()}", SOCKET_NAME)  # noqa: S108
    path = path.absolute()
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"server.socket: a Unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes: {path}")
    return path


def resolve_state_dir(config: Config, environ: Mapping[str, str]) -> Path:
    """The directory of journal, SQLite file and host id: `server.state_dir`, $STATE_DIRECTORY, XDG, or home.

    Raises:
        ConfigError: there is none, as for a container's user id that is not in the password database.
    """
    if config.server.state_dir:
        return Path(config.server.state_dir).absolute()
    # systemd.exec(5): several directories are separated by colons; ours is the first.
    state_directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state_directory:
        return Path(state_directory).absolute()
    xdg_state_home = Path(environ.get("XDG_STATE_HOME", ""))
    if xdg_state_home.is_absolute():  # the XDG base directory specification: relative paths are ignored
        return xdg_state_home / "callstate"
    try:
        home = environ.get("HOME") or str(Path.home())
    except RuntimeError:
        raise ConfigError(
            f"server.state_dir: not given, and user {os.getuid()} has no home directory; set it with --state-dir"
        ) from None
    return Path(home, ".local", "state", "callstate").absolute()


def resolve_password(config: Config, environ: Mapping[str, str]) -> str | None:
    """The Redis password from `store.password_file` or systemd's credentials; None if neither has one.

    Raises:
        ConfigError: the file can't be read or is empty, or the URL has a password as well.
    """
    url_has_one = redact_url(config.store.url) != config.store.url
    if config.store.password_file:
        if url_has_one:
            raise ConfigError("store.password_file: store.url has a password too; give one of them")
        path = Path(config.store.password_file)
    else:
        path = Path(environ.get("CREDENTIALS_DIRECTORY", ""), CREDENTIAL_NAME)
        if url_has_one or "CREDENTIALS_DIRECTORY" not in environ or not path.exists():
            return None
    try:
        password = path.read_text("utf-8").partition("\n")[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"store.password_file: {_reason(error)}: {path}") from error
    if not password:
        raise ConfigError(f"store.password_file: expected the password on the first line: {path}")
    return password


def check_store_files(config: Config) -> None:
    """Check the files named in `store.url`.

    Raises:
        ConfigError: one of them can't be used; names it.
    """
    try:
        store_url.check_store_files(config.store.url)
    except UrlOptionError as error:
        raise ConfigError(f"store.url: {error}") from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {_reason(error)}: {path}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config: not TOML: {path}: {error}") from error
    values: dict[str, Any] = {}
    for section, table in document.items():
        if section not in SECTIONS:
            _unknown(section, SECTIONS, str(path), "section")
        if not isinstance(table, dict):
            raise ConfigError(f"{section}: expected a table, [{section}] ({path})")
        for name, value in table.items():
            key = f"{section}.{name}"
            values[key] = _checked(_option(key, str(path)), value, str(path), strict=True)
    return values


def _read_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    by_variable = {option.variable: option for option in OPTIONS.values()}
    for variable, text in sorted(environ.items()):
        option = by_variable.get(variable)
        if option is not None:
            yield option.key, _checked(option, text, variable, strict=False)
            continue
        section, underscore, name = variable.removeprefix("CALLSTATE_").lower().partition("_")
        ours = variable.startswith("CALLSTATE_") and underscore and section in SECTIONS
        if ours and _SERVICE_LINK.match(variable) is None and not text.startswith("tcp://"):
            _unknown(f"{section}.{name}", OPTIONS, variable, "key")


def _option(key: str, source: str) -> Option:
    return OPTIONS.get(key) or _unknown(key, OPTIONS, source, "key")


def _unknown(key: str, known: Mapping[str, object], source: str, what: str) -> NoReturn:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `callstated --help` lists them"
    raise ConfigError(f"{key}: no such {what} ({source}){hint}")


def _checked(option: Option, value: object, source: str, *, strict: bool) -> Any:
    """Convert a value to the option's type. If not strict, it is the text of a flag or variable."""
    try:
        converted = msgspec.convert(value, option.annotation, strict=strict)
        if option.key == "store.url":
            check_store_url(str(converted))
    except UrlOptionError as error:
        raise ConfigError(f"{option.key}: {error} ({source})") from error
    except (msgspec.ValidationError, ValueError) as error:
        shown = redact_url(value) if isinstance(value, str) else value
        raise ConfigError(f"{option.key}: expected {option.expected}; got {shown!r} ({source})") from error
    return converted


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8"


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="callstated",
        description="Keeps the state of live phone calls for the workers of one host.",
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
