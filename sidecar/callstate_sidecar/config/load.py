"""Loading the configuration: flags, then CALLSTATE_SECTION_KEY variables, then the TOML file, then defaults.

Arguments and environment are passed in. Values are checked against the annotations of schema.py.
"""

from __future__ import annotations

import argparse
import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from callstate_sidecar.config.arguments import parse
from callstate_sidecar.config.errors import ConfigError, check_encodable, reason
from callstate_sidecar.config.options import OPTIONS, SECTIONS, Option
from callstate_sidecar.config.origins import Origin
from callstate_sidecar.config.redis_url import UrlOptionError
from callstate_sidecar.config.schema import Config
from callstate_sidecar.config.store_url import check_store_url, redact_url

# What Kubernetes sets in every pod for a Service that happens to be called `callstate-store`.
_SERVICE_LINK: Final = re.compile(r"CALLSTATE_.*_(SERVICE_(HOST|PORT(_.*)?)|PORT_\d+_(TCP|UDP|SCTP)(_.*)?)\Z")

# What keys don't have, and all after it: it may be a URL with a password, `store.url=` forgotten.
_NOT_OF_KEYS: Final = re.compile(r"[^\w.-].*", re.DOTALL)


def load_config(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[Config, argparse.Namespace]:
    """Load the configuration.

    Args:
        argv: the arguments after the program's name.
        environ: environment variables; those not named CALLSTATE_SECTION_… are ignored.

    Returns:
        the configuration, and the arguments: `check` (only check the configuration), `config` (the TOML file's path
        or None), `origins` (where the values come from) and `warnings` (to be logged once logging is configured).

    Raises:
        ConfigError: an unknown key, a wrong value, an unreadable file.
        SystemExit: of argparse: 0 after `--help` and `--version`, 2 for unknown flags.
    """
    args = parse(argv)
    values: dict[str, Any] = {}
    origins = args.origins = {}
    if args.config is not None:
        check_encodable(args.config, "--config")
        values.update(_read_file(Path(args.config)))
        origins.update(dict.fromkeys(values, Origin("file", args.config)))
    for option, value in _read_environ(environ):
        values[option.key], origins[option.key] = value, Origin("environment", option.variable)
    for key, text, flag in args.settings:
        values[key] = _checked(_option(key, flag), text, flag, strict=False)
        origins[key] = Origin("flag", flag)
    args.warnings = [
        f"{flag}: every user of this host can see a password on the command line; use store.password_file"
        for key, text, flag in args.settings
        if key == "store.url" and redact_url(text) != text
    ]
    args.settings = None  # may hold a password
    return msgspec.convert(_nested(values), Config), args


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key as tables by section."""
    tables: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        table = tables
        for part in section.split("."):
            table = table.setdefault(part, {})
        table[name] = value
    return tables


def _read_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {reason(error)}: {path}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, and of thousands of digits or brackets
        raise ConfigError(f"--config: not TOML: {path}: {redact_url(str(error))}") from error
    values: dict[str, Any] = {}
    for section, table in document.items():
        if section not in SECTIONS:
            _unknown(section, SECTIONS, str(path), "section")
        values.update(_read_section(section, table, path))
    return values


def _read_section(section: str, table: object, path: Path) -> Iterator[tuple[str, Any]]:
    if not isinstance(table, dict):
        raise ConfigError(f"{section}: expected a table, [{section}] ({path})")
    for name, value in table.items():
        key = f"{section}.{name}"
        if key in SECTIONS:
            yield from _read_section(key, value, path)
        else:
            yield key, _checked(_option(key, str(path)), value, str(path), strict=True)


def _read_environ(environ: Mapping[str, str]) -> Iterator[tuple[Option, Any]]:
    by_variable = {option.variable: option for option in OPTIONS.values()}
    for variable, text in sorted(environ.items()):
        option = by_variable.get(variable)
        if option is not None:
            yield option, _checked(option, text, variable, strict=False)
            continue
        section, underscore, name = variable.removeprefix("CALLSTATE_").lower().partition("_")
        ours = variable.startswith("CALLSTATE_") and underscore and section in SECTIONS
        if ours and _SERVICE_LINK.match(variable) is None and not text.startswith("tcp://"):
            _unknown(f"{section}.{name}", OPTIONS, _NOT_OF_KEYS.sub("…", variable), "key")


def _option(key: str, source: str) -> Option:
    return OPTIONS.get(key) or _unknown(key, OPTIONS, source, "key")


def _unknown(key: str, known: Mapping[str, object], source: str, what: str) -> NoReturn:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "; `callstated --help` lists them"
    raise ConfigError(f"{_NOT_OF_KEYS.sub('…', key)}: no such {what} ({source}){hint}")


def _checked(option: Option, value: object, source: str, *, strict: bool) -> Any:
    """Convert a value to the option's type. If not strict, it is the text of a flag or variable."""
    try:
        if isinstance(value, str):
            check_encodable(value, option.key)
        converted = msgspec.convert(value, option.annotation, strict=strict)
        if option.key == "store.url":
            check_store_url(str(converted))
    except UrlOptionError as error:
        raise ConfigError(f"{option.key}: {error} ({source})") from error
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{option.key}: expected {option.expected}; got {_shown(value)} ({source})") from error
    return converted


def _shown(value: object) -> str:
    """A wrong value, without a password that is in it."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "a table"
    return repr(redact_url(value) if isinstance(value, str) else value)
