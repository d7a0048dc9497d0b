"""The documentation of the configuration, generated from schema.py: `--help` and systemd/callstate.toml.

`python -m callstate_sidecar.config.reference` prints the reference file.
"""

from __future__ import annotations

import json
import sys
import textwrap
from typing import Final

from callstate_sidecar.config.options import OPTIONS, SECTIONS, Option
from callstate_sidecar.config.schema import GIB, KIB, MIB
from callstate_sidecar.system import stdio

_WIDTH: Final = 100

_TOML_HEAD: Final = """\
# callstate.toml: every key of callstated, with its default, unit, range and meaning.
# Uncomment what you change. Flags and CALLSTATE_SECTION_KEY variables take precedence over this file.
# `callstated --check --config FILE` checks a file.
"""


PACKAGED: Final = {"access.share": "group"}
"""Keys that the packaged file sets to something other than the default. The defaults are for daemons that run
without a file, whose socket only their own user can open."""


def help_epilog() -> str:
    """All keys, as the end of `--help`."""
    lines = [
        "keys, for --set, the TOML file ([section] key = value) and CALLSTATE_SECTION_KEY variables; flags",
        "take precedence over variables, and variables over the file:",
    ]
    for option in OPTIONS.values():
        lines += ["", f"  {option.key} = {toml_value(option.default)}", *_wrapped(option, "      ")]
    lines += ["", "exit status: 0 stopped on request, 1 failed, 2 wrong usage or configuration,"]
    lines += ["3 another daemon uses the socket or journal, 4 journal damaged or of a newer version"]
    return "\n".join(lines)


def reference_toml() -> str:
    """A TOML file with every key at its default and commented out, except those in PACKAGED."""
    lines = [_TOML_HEAD]
    for section, struct in SECTIONS.items():
        lines += [f"# {struct.__doc__}", f"[{section}]"]
        for option in OPTIONS.values():
            if option.section == section:
                lines += [*_wrapped(option, "# "), _setting(option), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _setting(option: Option) -> str:
    if option.key in PACKAGED:
        return f"{option.name} = {toml_value(PACKAGED[option.key])}"
    return f"#{option.name} = {toml_value(option.default)}"


def described(option: Option) -> str:
    """What a key means, and which values it takes."""
    size = _size(option.default) if option.name.endswith("_bytes") else ""
    return f"{option.meta.description} ({option.expected}{size})"


def _wrapped(option: Option, indent: str) -> list[str]:
    return textwrap.wrap(described(option), _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _size(value: object) -> str:
    if isinstance(value, int) and value:
        for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if value % unit == 0:
                return f"; {value // unit} {name}"
    return ""


def toml_value(value: str | float) -> str:
    """A value as TOML."""
    return json.dumps(value)


if __name__ == "__main__":
    sys.exit(stdio.run("configdoc", lambda: sys.stdout.write(reference_toml()) and 0))
