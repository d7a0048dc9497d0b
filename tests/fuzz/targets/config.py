"""The daemon's configuration: a file, variables of the environment, and flags.

Input: the file's text; then, each after a NUL, `CALLSTATE_SECTION_KEY=value` or the value of a `--set`. It is
loaded and within the ranges of its schema, or refused as a ConfigError (exit status 2) that shows no password.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from functools import cache
from pathlib import Path

import msgspec

from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.config.load import load_config
from callstate_sidecar.config.resolve import resolve_socket, resolve_state_dir
from callstate_sidecar.config.schema import Config

PASSWORD = b"s3cr3t"
IN_URL = b":" + PASSWORD + b"@"


def check(data: bytes) -> None:
    """Load one configuration."""
    text, *rest = data.split(b"\0")
    path = _directory() / "callstate.toml"
    path.write_bytes(text)
    words = [part.decode("utf-8", "surrogateescape") for part in rest]  # as the operating system passes them
    named = (word.partition("=") for word in words if word.startswith("CALLSTATE_"))
    environ = {name: value for name, _, value in named}
    settings = [f"--set={word}" for word in words if not word.startswith("CALLSTATE_")]
    error = io.StringIO()
    try:
        with contextlib.redirect_stderr(error):
            config, args = load_config([f"--config={path}", *settings], environ)
    except ConfigError as refused:
        _check_hidden(data, str(refused))
        return
    except SystemExit as left:  # of argparse
        if left.code != 2:
            raise
        _check_hidden(data, error.getvalue())
        return
    msgspec.convert(msgspec.to_builtins(config), Config)
    _check_hidden(data, " ".join(args.warnings))
    for resolve in (resolve_socket, resolve_state_dir):
        with contextlib.suppress(ConfigError):
            resolve(config, {"HOME": "/root"})


def _check_hidden(data: bytes, message: str) -> None:
    """Check that a message has no password of an URL."""
    if data.count(PASSWORD) == data.count(b"redis://user" + IN_URL) == 1:
        assert PASSWORD.decode() not in message, message


@cache
def _directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-config-"))
