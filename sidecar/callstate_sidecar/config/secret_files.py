"""Files with secrets that other users can read."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from callstate_sidecar.config import store_url
from callstate_sidecar.config.schema import Config

OTHERS = stat.S_IRGRP | stat.S_IROTH


def readable_secrets(config: Config, file: str | None) -> list[str]:
    """A warning for each file with a password or key that its group or all users can read.

    Whoever can read it can read all calls in Redis. A group counts as well: workers are in the daemon's, and all
    they need of it is the socket. systemd's credentials are not examined: systemd guards them with a list of users.

    Args:
        config: the configuration.
        file: the configuration file, if there is one.
    """
    return [
        f"{key}: others can read a secret in {path} (mode {mode:04o}); run: chmod go= {shlex.quote(str(path))}"
        for key, path in _secrets(config, file)
        if (mode := _mode(path)) & OTHERS
    ]


def _secrets(config: Config, file: str | None) -> Iterator[tuple[str, Path]]:
    if config.store.password_file:
        yield "store.password_file", Path(config.store.password_file)
    if file is not None and store_url.redact_url(config.store.url) != config.store.url:
        yield "--config", Path(file)
    key = store_url.key_file(config.store.url)
    if key:
        yield "store.url: ssl_keyfile", Path(key)


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0  # whoever reads it says so
