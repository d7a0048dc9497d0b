"""Write callstate@.service and callstate@.socket, for several instances on a host, from the units of one:
`make reference`. They differ in names and paths only, and a second copy of the hardening would be
forgotten at the next change.

    python scripts/instance_units.py            write them
    python scripts/instance_units.py --check    fail unless they are as they would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

UNITS = Path(__file__).parents[1] / "systemd"

HEADS = {
    "callstate.service": """\
# callstated as one of several instances on this host, each with a configuration, a socket and a state of its own:
#   cp /etc/callstate/callstate.toml /etc/callstate/NAME.toml
#   systemctl enable --now callstate@NAME.socket callstate@NAME.service
# Workers name theirs: CALLSTATE_SOCKET=/run/callstate/NAME.sock. Any name but callstate, whose socket is taken.
#
# Written by scripts/instance_units.py from callstate.service, whose head says what is not here and why.
""",
    "callstate.socket": """\
# The socket of one of several instances. Written by scripts/instance_units.py from callstate.socket.
""",
}

# Each has to be found, but may be found more than once.
SUBSTITUTIONS = {
    "callstate.service": {
        "Description=Session store for live phone calls": "Description=Session store for live phone calls (%i)",
        "Requires=callstate.socket": "Requires=callstate@%i.socket",
        "After=callstate.socket": "After=callstate@%i.socket",
        "/etc/callstate/callstate.toml": "/etc/callstate/%i.toml",
        "StateDirectory=callstate": "StateDirectory=callstate-%i",
        "/var/lib/callstate;": "/var/lib/callstate-NAME;",
        "redis-password:callstate.redis-password": "redis-password:callstate.%i.redis-password",
        "/etc/credstore/callstate.redis-password": "/etc/credstore/callstate.NAME.redis-password",
        "Also=callstate.socket": "Also=callstate@%i.socket",
    },
    "callstate.socket": {
        "Description=Session store for live phone calls,": "Description=Session store for live phone calls (%i),",
        "# Clients look here by default.": "# Clients need this path, for example in CALLSTATE_SOCKET.",
        "/run/callstate/callstate.sock": "/run/callstate/%i.sock",
    },
}


def instance_unit(name: str) -> str:
    """The template for instances of a unit.

    Args:
        name: a key of `SUBSTITUTIONS`.
    """
    text = (UNITS / name).read_text("utf-8")
    body = text[text.index("[Unit]") :]
    for old, new in SUBSTITUTIONS[name].items():
        if old not in body:
            raise SystemExit(f"{name} has no {old!r}: correct SUBSTITUTIONS")
        body = body.replace(old, new)
    return f"{HEADS[name]}\n{body}"


def main() -> int:
    """Write or check both."""
    stale = []
    for name in SUBSTITUTIONS:
        target = UNITS / name.replace(".", "@.")
        text = instance_unit(name)
        if "--check" not in sys.argv:
            target.write_text(text, "utf-8")
        elif not target.exists() or target.read_text("utf-8") != text:
            stale.append(target.name)
    if stale:
        sys.stderr.write(f"{', '.join(stale)}: not as in the source; `make reference` writes them anew\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
