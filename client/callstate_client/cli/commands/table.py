"""All commands, in the order in which `callstate --help` lists them."""

from __future__ import annotations

from typing import Final

from callstate_client.cli.command import Command
from callstate_client.cli.commands import (
    doctor,
    drain,
    end,
    figures,
    install_units,
    ls,
    ping,
    quarantine,
    rm,
    show,
    tail,
    top,
)
from callstate_client.cli.simulate import command as simulate

COMMANDS: Final[tuple[Command, ...]] = (
    ping.COMMAND,
    figures.INFO,
    figures.STATS,
    ls.COMMAND,
    show.COMMAND,
    end.COMMAND,
    rm.COMMAND,
    quarantine.COMMAND,
    tail.COMMAND,
    top.COMMAND,
    drain.COMMAND,
    doctor.COMMAND,
    simulate.COMMAND,
    install_units.COMMAND,
)
