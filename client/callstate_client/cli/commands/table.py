"""All commands, in the order in which `callstate --help` lists them."""

from __future__ import annotations

from typing import Final

from callstate_client.cli.command import Command
from callstate_client.cli.commands import (
    config,
    doctor,
    drain,
    end,
    erase,
    export,
    figures,
    health,
    import_calls,
    install_units,
    latency,
    ls,
    ping,
    quarantine,
    rm,
    show,
    tail,
    top,
    workers,
)
from callstate_client.cli.simulate import command as simulate

COMMANDS: Final[tuple[Command, ...]] = (
    ping.COMMAND,
    figures.INFO,
    figures.STATS,
    health.COMMAND,
    latency.COMMAND,
    config.COMMAND,
    workers.COMMAND,
    ls.COMMAND,
    show.COMMAND,
    end.COMMAND,
    rm.COMMAND,
    erase.COMMAND,
    quarantine.COMMAND,
    tail.COMMAND,
    top.COMMAND,
    drain.COMMAND,
    doctor.COMMAND,
    export.COMMAND,
    import_calls.COMMAND,
    simulate.COMMAND,
    install_units.COMMAND,
)
