"""The TLS options of a Redis URL, as the context that connections are made with.

It is made by us rather than by redis-py, whose versions know different options, and read their files at the first
connection: a missing one would look like a server that is down. A check of the configuration makes it too.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from callstate_sidecar.config.redis_url import RedisUrl, UrlOptionError


def tls_context(url: RedisUrl) -> ssl.SSLContext | None:
    """The context for a URL's options; None if it has no use for one. Takes tens of milliseconds.

    Raises:
        UrlOptionError: a file is missing, unreadable, or of another kind; names the option and the file.
    """
    if not (url.tls or url.sentinel.get("ssl")):
        return None
    options = url.options
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load_authorities(context, options)
    if "ssl_certfile" in options:
        password = options.get("ssl_password", "")
        _load_certificate(context, options["ssl_certfile"], options.get("ssl_keyfile"), password)
    mode = options.get("ssl_cert_reqs", "required")
    context.check_hostname = mode != "none" and options.get("ssl_check_hostname", True)
    context.verify_mode = ssl.VerifyMode[f"CERT_{mode.upper()}"]
    for flag in options.get("ssl_include_verify_flags", ()):
        context.verify_flags |= flag
    for flag in options.get("ssl_exclude_verify_flags", ()):
        context.verify_flags &= ~flag
    if "ssl_min_version" in options:
        context.minimum_version = options["ssl_min_version"]
    if "ssl_ciphers" in options:
        context.set_ciphers(options["ssl_ciphers"])
    return context


def _load_authorities(context: ssl.SSLContext, options: Mapping[str, Any]) -> None:
    """Trust those that are named, else those of the system."""
    file, directory, data = (options.get(name) for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"))
    if not (file or directory or data):
        context.load_default_certs()
    if file:
        _check_readable("ssl_ca_certs", file)
        _load("ssl_ca_certs", f": {file}", context, cafile=file)
    if directory:
        if not Path(directory).is_dir():
            raise UrlOptionError(f"ssl_ca_path: no such directory: {directory}")
        context.load_verify_locations(capath=directory)
    if data:
        _load("ssl_ca_data", "", context, cadata=data)


def _load(name: str, where: str, context: ssl.SSLContext, **source: str) -> None:
    try:
        context.load_verify_locations(**source)
    except ssl.SSLError as error:
        raise UrlOptionError(f"{name}: no CA certificate in it{where}") from error


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str | None, password: str) -> None:
    _check_readable("ssl_certfile", certificate)
    if key is not None:
        _check_readable("ssl_keyfile", key)
    try:
        context.load_cert_chain(certificate, key, lambda: password)  # None in its place would ask on the terminal
    except ssl.SSLError as error:
        raise UrlOptionError(
            "ssl_certfile, ssl_keyfile: not a certificate with its key (encrypted keys need ssl_password): "
            f"{certificate}, {key or certificate}"
        ) from error


def _check_readable(name: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise UrlOptionError(f"{name}: {error.strerror}: {path}") from error
