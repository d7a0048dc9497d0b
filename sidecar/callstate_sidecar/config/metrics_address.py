"""Validation of `metrics.listen`: where figures for Prometheus are served."""

from __future__ import annotations

import ipaddress
import os
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.config.resolve import MAX_SOCKET_PATH_BYTES
from callstate_sidecar.config.schema import MetricsConfig

_EXPECTED = "expected HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464, or the absolute path of a Unix socket"


class TcpAddress(NamedTuple):
    """An IP address and a port; 0: the kernel chooses one."""

    host: str
    port: int


def resolve_metrics(config: MetricsConfig) -> Path | TcpAddress | None:
    """Where to listen: a Unix socket or a TCP address; None: nowhere.

    Raises:
        ConfigError: it is neither; or not an address of this host alone, and `metrics.allow_remote` is `no`; or the
            package prometheus-client is not installed.
    """
    if not config.listen:
        return None
    address = _parsed(config.listen)
    local = isinstance(address, Path) or ipaddress.ip_address(address.host).is_loopback
    if not local and config.allow_remote == "no":
        raise ConfigError(
            f"metrics.listen: other hosts could connect to {config.listen}; expected an address of this host "
            'alone, such as 127.0.0.1, or metrics.allow_remote = "yes"'
        )
    if find_spec("prometheus_client") is None:
        raise ConfigError("metrics.listen needs prometheus-client: pip install 'callstate[sidecar,metrics]'")
    return address


def _parsed(text: str) -> Path | TcpAddress:
    if text.startswith("/"):
        if len(os.fsencode(text)) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(
                f"metrics.listen: a Unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes: {text}"
            )
        return Path(text)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else "127.0.0.1" if host == "localhost" else host
    try:
        is_6 = ipaddress.ip_address(bare).version == 6
    except ValueError:
        raise ConfigError(f"metrics.listen: {_EXPECTED}, not {text!r}") from None
    if not colon or is_6 != bracketed or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"metrics.listen: {_EXPECTED}, not {text!r}")
    return TcpAddress(bare, int(port))
