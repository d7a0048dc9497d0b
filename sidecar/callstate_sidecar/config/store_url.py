"""Validation of `store.url`, and redaction of its passwords."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from callstate_sidecar.config.redis_url import UrlOptionError, parse_redis_url
from callstate_sidecar.config.tls import tls_context

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
    """Check that the files named in a URL exist and are what their options say.

    Raises:
        UrlOptionError: one is missing, unreadable, or of another kind; names the option and the file.
    """
    if not url.startswith("sqlite:"):
        tls_context(parse_redis_url(url))


def key_file(url: str) -> str:
    """The file of a valid URL's private key; empty if it names none."""
    return "" if url.startswith("sqlite:") else str(parse_redis_url(url).options.get("ssl_keyfile", ""))
