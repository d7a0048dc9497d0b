"""`callstated`, and `python -m callstate_sidecar`."""

from __future__ import annotations

import sys

from callstate_sidecar.system import stdio

MISSING_EXTRA_STATUS = 2


def main() -> None:
    """Run the daemon, or name the extra to install if its packages are missing."""
    sys.exit(stdio.run("callstated", _run))


def _run() -> int:
    try:
        import uvloop  # noqa: F401, PLC0415
    except ImportError as error:
        stdio.complain("callstated", f"needs {error.name}: pip install 'callstate[sidecar]'")
        return MISSING_EXTRA_STATUS
    from callstate_sidecar.launch import main as launch  # noqa: PLC0415

    return launch()


if __name__ == "__main__":
    main()
