"""`callstated`, and `python -m callstate_sidecar`."""

from __future__ import annotations

import sys

MISSING_EXTRA_STATUS = 2


def main() -> None:
    """Run the daemon; say which extra is missing where its packages are not installed."""
    try:
        import orjson  # noqa: F401, PLC0415
        import uvloop  # noqa: F401, PLC0415
    except ImportError as error:
        print(f"callstated needs {error.name}: pip install 'callstate[sidecar]'", file=sys.stderr)  # noqa: T201
        sys.exit(MISSING_EXTRA_STATUS)
    from callstate_sidecar.launch import main as launch  # noqa: PLC0415

    sys.exit(launch())


if __name__ == "__main__":
    main()
