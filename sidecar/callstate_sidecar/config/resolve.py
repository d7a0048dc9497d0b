"""What the configuration leaves to the environment: the paths of socket and state, and the Redis password."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from callstate_sidecar.config import store_url
from callstate_sidecar.config.errors import ConfigError, check_encodable, reason
from callstate_sidecar.config.redis_url import UrlOptionError
from callstate_sidecar.config.schema import Config

MAX_SOCKET_PATH_BYTES: Final = 107 if sys.platform == "linux" else 103
"""sun_path is 108 bytes on Linux and 104 on macOS and the BSDs, with the closing NUL (unix(7))."""

SOCKET_NAME: Final = "callstate.sock"
CREDENTIAL_NAME: Final = "redis-password"
"""Name of the Redis password in the unit's LoadCredential=."""


def resolve_socket(config: Config, environ: Mapping[str, str]) -> Path:
    """Where to listen when systemd passes no socket: `server.socket`, else $XDG_RUNTIME_DIR, else /tmp.

    The caller has to create the directory of the last, /tmp/callstate-<uid>, with mode 0700, or to check it.

    Raises:
        ConfigError: the path is too long for a Unix socket, or not UTF-8.
    """
    runtime_dir = environ.get("XDG_RUNTIME_DIR", "")
    if config.server.socket:
        path = Path(config.server.socket)
    elif Path(runtime_dir).is_absolute() and Path(runtime_dir).is_dir():
        path = Path(runtime_dir, SOCKET_NAME)
    else:
        # clients look there too, but only in a directory that they own and that has mode 0700
        path = Path(f"/tmp/callstate-{os.getuid()}", SOCKET_NAME)  # noqa: S108
    path = path.absolute()
    check_encodable(str(path), "server.socket")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"server.socket: a Unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes: {path}")
    return path


def resolve_state_dir(config: Config, environ: Mapping[str, str]) -> Path:
    """The directory of journal, SQLite file and host id: `server.state_dir`, $STATE_DIRECTORY, XDG, or home.

    Raises:
        ConfigError: there is none, as for a container's user id that is not in the password database; or its path
            is not UTF-8.
    """
    path = _state_dir(config, environ)
    check_encodable(str(path), "server.state_dir")
    return path


def _state_dir(config: Config, environ: Mapping[str, str]) -> Path:
    if config.server.state_dir:
        return Path(config.server.state_dir).absolute()
    # systemd.exec(5): several directories are separated by colons; ours is the first.
    state_directory = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if state_directory:
        return Path(state_directory).absolute()
    xdg_state_home = Path(environ.get("XDG_STATE_HOME", ""))
    if xdg_state_home.is_absolute():  # the XDG base directory specification: relative paths are ignored
        return xdg_state_home / "callstate"
    try:
        home = environ.get("HOME") or str(Path.home())
    except RuntimeError:
        raise ConfigError(
            f"server.state_dir: not given, and user {os.getuid()} has no home directory; set it with --state-dir"
        ) from None
    return Path(home, ".local", "state", "callstate").absolute()


def resolve_password(config: Config, environ: Mapping[str, str]) -> str | None:
    """The Redis password from `store.password_file` or systemd's credentials; None if neither has one.

    Raises:
        ConfigError: the file can't be read or is empty, or the URL has a password as well.
    """
    # and not only one for the sentinels, or of a key
    url_has_one = store_url.has_password(config.store.url)
    if config.store.password_file:
        if url_has_one:
            raise ConfigError("store.password_file: store.url has a password as well; give only one")
        path = Path(config.store.password_file)
    else:
        path = Path(environ.get("CREDENTIALS_DIRECTORY", ""), CREDENTIAL_NAME)
        if url_has_one or "CREDENTIALS_DIRECTORY" not in environ or not path.exists():
            return None
    try:
        password = path.read_text("utf-8").partition("\n")[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"store.password_file: {reason(error)}: {path}") from error
    if not password:
        raise ConfigError(f"store.password_file: expected the password on the first line: {path}")
    return password


def check_store_files(config: Config) -> None:
    """Check the files named in `store.url`.

    Raises:
        ConfigError: one of them can't be used; names it.
    """
    try:
        store_url.check_store_files(config.store.url)
    except UrlOptionError as error:
        raise ConfigError(f"store.url: {error}") from error
