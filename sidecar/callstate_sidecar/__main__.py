"""`callstated`, and `python -m callstate_sidecar`."""

from __future__ import annotations

import sys

from callstate_sidecar.system import stdio
from callstate_sidecar.system.signals import Signals

MISSING_EXTRA_STATUS = 2

NO_START = frozenset({"--check", "--version", "--help", "-h"})
"""With one of these a signal ends the process, as usual."""


def main() -> None:
    """Run the daemon, or name the extra to install if its packages are missing."""
    sys.exit(stdio.run("callstated", _run))


def _run() -> int:
    arguments = sys.argv[1:]
    # first of all: what follows imports for some tenths of a second
    signals = None if arguments[:1] == ["journal"] or NO_START.intersection(arguments) else Signals()
    try:
        import uvloop  # noqa: F401, PLC0415
    except ImportError as error:
        stdio.complain("callstated", f"needs {error.name}: pip install 'callstate[sidecar]'")
        return MISSING_EXTRA_STATUS
    from callstate_sidecar.launch import main as launch  # noqa: PLC0415

    return launch(arguments, signals)


if __name__ == "__main__":
    main()
