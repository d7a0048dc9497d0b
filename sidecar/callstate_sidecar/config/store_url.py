"""Validation of `store.url`, and redaction of its passwords."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from callstate_sidecar.config.redis_url import UrlOptionError, parse_redis_url

# Greedy up to the last @, because a password may contain unescaped slashes, colons and @: better to hide too much.
_URL_PASSWORD: Final = re.compile(r"(//[^@/?#:]*):.*@", re.DOTALL)
_QUERY_PASSWORD: Final = re.compile(r"([?&]\w*password=)[^&#]*", re.IGNORECASE)
_BARE_USERINFO: Final = re.compile(r"\A(?!sqlite:)(?!.*//).*@", re.DOTALL)


def redact_url(url: str) -> str:
    """The URL with *** in place of its passwords, for logs and messages; works on malformed URLs too."""
    for pattern, replacement in (
        (_URL_PASSWORD, r"\1:***@"),
        (_QUERY_PASSWORD, r"\1***"),
        (_BARE_USERINFO, "***@"),
    ):
        url = pattern.sub(replacement, url)
    return url


def check_store_url(url: str) -> None:
    """Check a store's URL, without connecting to it or opening a file.

    Raises:
        UrlOptionError: a part of it is wrong; the message names it.
        ValueError: it is the URL of no kind of store.
    """
    if not url.startswith("sqlite:"):
        parse_redis_url(url)
        return
    parts = urlsplit(url)
    if parts.netloc or parts.query or parts.fragment:
        raise UrlOptionError("sqlite: takes a path, relative to the state directory or absolute, and no options")


def has_password(url: str) -> bool:
    """Whether a valid URL has a password for the store's servers."""
    return not url.startswith("sqlite:") and bool(parse_redis_url(url).password)


def check_store_files(url: str) -> None:
    """Check that the files named in a URL exist and are what redis-py needs: it would read them at its first
    connection, and report a store that is down.

    Raises:
        UrlOptionError: one is missing, unreadable, or of another kind; names the option and the file.
    """
    if url.startswith("sqlite:"):
        return
    options = parse_redis_url(url).options
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in options:
            _check_readable(name, options[name])
    if "ssl_ca_path" in options and not Path(options["ssl_ca_path"]).is_dir():
        raise UrlOptionError(f"ssl_ca_path: no such directory: {options['ssl_ca_path']}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name, argument in (("ssl_ca_certs", "cafile"), ("ssl_ca_data", "cadata")):
        try:
            if name in options:
                context.load_verify_locations(**{argument: options[name]})
        except ssl.SSLError as error:
            of = f": {options[name]}" if argument == "cafile" else ""
            raise UrlOptionError(f"{name}: no certificate of an authority in it{of}") from error
    _check_key_pair(context, options)


def _check_key_pair(context: ssl.SSLContext, options: Mapping[str, Any]) -> None:
    if "ssl_certfile" not in options:
        return
    certificate, key = options["ssl_certfile"], options.get("ssl_keyfile")
    password = options.get("ssl_password", "")
    try:
        context.load_cert_chain(certificate, key, lambda: password)  # a text of None would ask on the terminal
    except ssl.SSLError as error:
        raise UrlOptionError(
            f"ssl_certfile, ssl_keyfile: no certificate and its key (ssl_password, if it is encrypted): "
            f"{certificate}, {key or certificate}"
        ) from error


def _check_readable(name: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise UrlOptionError(f"{name}: {error.strerror}: {path}") from error
