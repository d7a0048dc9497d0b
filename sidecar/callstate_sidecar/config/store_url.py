"""Validation of `store.url`, and redaction of its password."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_SCHEMES: Final = ("sqlite", "redis", "rediss", "unix")
_HOST_PORT: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}\Z")
_TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Files that redis-py would read at its first connection, and report as a store that is down."""

# Greedy up to the last @, because a password may contain unescaped slashes, colons and @: better to hide too much.
_URL_PASSWORD: Final = re.compile(r"(//[^@/?#:]*):.*@", re.DOTALL)
_QUERY_PASSWORD: Final = re.compile(r"([?&]password=)[^&#]*", re.IGNORECASE)
_BARE_USERINFO: Final = re.compile(r"\A(?!sqlite:)(?!.*//).*@", re.DOTALL)


def redact_url(url: str) -> str:
    """The URL with *** in place of its password, for logs and messages; works on malformed URLs too."""
    for pattern, replacement in (
        (_URL_PASSWORD, r"\1:***@"),
        (_QUERY_PASSWORD, r"\1***"),
        (_BARE_USERINFO, "***@"),
    ):
        url = pattern.sub(replacement, url)
    return url


def check_store_url(url: str) -> None:
    """Check the form of a store's URL, without connecting to it.

    Raises:
        ValueError: unknown scheme, invalid port number, or `unix://` without a path.
    """
    parts = urlsplit(f"redis://{url}" if _HOST_PORT.match(url) else url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"{parts.scheme or 'nothing'} is not a kind of store")
    if parts.scheme in ("redis", "rediss"):
        _ = parts.port  # raises ValueError if it is not a port number
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("unix:// needs the path of a socket")


def check_tls_files(url: str) -> None:
    """Check that the TLS files named in a URL are readable.

    Raises:
        OSError: one is not; names it.
        ValueError: the CA file contains no certificate; names it.
    """
    for name, value in parse_qsl(urlsplit(url).query):
        if name not in _TLS_FILES:
            continue
        with Path(value).open("rb"):
            pass
        if name == "ssl_ca_certs":
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
            except ssl.SSLError as error:
                raise ValueError(f"no certificate of an authority in it: {value}") from error
