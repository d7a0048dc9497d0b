"""The `callstated` command: reads the configuration, runs the daemon or a subcommand, returns an exit status."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Final

import uvloop

from callstate_sidecar.access.configured import configured_policy
from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.config.load import load_config
from callstate_sidecar.config.metrics_address import resolve_metrics
from callstate_sidecar.config.origins import Origins
from callstate_sidecar.config.resolve import check_store_files, resolve_password, resolve_socket, resolve_state_dir
from callstate_sidecar.config.schema import Config
from callstate_sidecar.config.secret_files import readable_secrets
from callstate_sidecar.daemon import Daemon
from callstate_sidecar.journal import JournalError
from callstate_sidecar.journal import cli as journal_cli
from callstate_sidecar.logs.event_log import EventLog
from callstate_sidecar.logs.setup import configure_logging
from callstate_sidecar.serving.listener import check_socket_dir
from callstate_sidecar.system import core_dumps, stdio
from callstate_sidecar.system.exits import Exit
from callstate_sidecar.system.heap import keep_some_free
from callstate_sidecar.system.signals import Signals
from callstate_sidecar.system.state_dir import AlreadyRunningError, check_state_dir
from callstate_sidecar.system.strict_modes import UnsafePathError

log = EventLog(__name__)

UMASK: Final = 0o077
"""Of all files and directories: they hold what people said on the phone. Sockets get their modes by themselves."""

_STATUS: dict[type[Exception], Exit] = {
    ConfigError: Exit.USAGE,
    AlreadyRunningError: Exit.ALREADY_RUNNING,
    UnsafePathError: Exit.USAGE,
    JournalError: Exit.JOURNAL,
    OSError: Exit.FAILED,
}
"""Errors that keep a daemon from starting, and the exit status of each; only the last may be cured by a restart."""


def main(argv: Sequence[str] | None = None, signals: Signals | None = None) -> int:
    """Run callstated until it is asked to stop.

    Args:
        argv: arguments without the program's name; default: the process's own.
        signals: as installed before this module was imported; default: installed now, for a start.

    Returns:
        the exit status; see system/exits.py.
    """
    arguments = sys.argv[1:] if argv is None else argv
    os.umask(UMASK)
    if arguments[:1] == ["journal"]:
        return journal_cli.main(arguments[1:])
    try:
        config, args = load_config(arguments, os.environ)
    except ConfigError as error:
        stdio.complain("callstated", str(error))
        return Exit.USAGE
    try:
        configure_logging(config.log.level, config.log.format, config.log.burst, os.environ)
    except OSError as error:
        stdio.complain("callstated", f"log.format: journald: {error.strerror}: {error.filename}")
        return Exit.USAGE
    secrets = readable_secrets(config, args.config) if config.server.strict_modes else []
    for warning in [*args.warnings, *secrets]:
        log.warning("configuration", "%s", warning)

    def reload() -> tuple[Config, Origins]:
        config, args = load_config(arguments, os.environ)
        return config, args.origins

    async def serve(signals: Signals) -> Exit:
        return await Daemon(config, args.origins, os.environ, reload, signals).run()

    try:
        if args.check:
            _check(config)
            return Exit.OK
        if not config.server.core_dumps:
            core_dumps.forbid()
        keep_some_free()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(signals or Signals()))
    except tuple(_STATUS) as error:
        log.error("start_failed", "%s", error)
        return next(status for kind, status in _STATUS.items() if isinstance(error, kind))


def _check(config: Config) -> None:
    socket = resolve_socket(config, os.environ)
    state_dir = resolve_state_dir(config, os.environ)
    if config.server.strict_modes:
        check_state_dir(state_dir)
        check_socket_dir(socket)
    resolve_password(config, os.environ)
    check_store_files(config)
    resolve_metrics(config.metrics)
    configured_policy(config.access)
    print("the configuration is valid")  # noqa: T201
