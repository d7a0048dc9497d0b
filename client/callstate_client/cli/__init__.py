"""`callstate`, the operator's tool: shows the calls that a daemon holds, ends or deletes one, plays simulated ones.

Exit codes: 0 done; 1 failed, for example because the daemon did not answer in time or a simulation lost
something; 2 wrong usage, or the extra `cli` is not installed; 3 no daemon found; 130 interrupted (Ctrl-C); 141 the
reader of the output has closed it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from callstate_client.cli import stdio

USAGE_STATUS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code.

    Args:
        argv: arguments without the program's name; default the process's own.
    """
    return stdio.run("callstate", lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int:
    try:
        import rich  # noqa: F401, PLC0415 - part of an extra
    except ImportError as error:
        stdio.complain("callstate", f"needs {error.name}: pip install 'callstate[cli]'")
        return USAGE_STATUS
    from callstate_client.cli.app import run  # noqa: PLC0415 - needs rich

    return run(argv)
