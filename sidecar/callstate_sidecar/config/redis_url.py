"""Parsing of Redis URLs: the servers, the database, the credentials, and the options in the query.

    redis://[user[:password]@]host[:port][/db]          one server; also as host:port[/db]
    rediss://…                                          the same over TLS
    unix://[user[:password]@]/path[?db=n]               the same over a Unix socket
    redis+sentinel://[…@]host[:port][,host…]/service[/db]
    redis+cluster://[…@]host[:port][,host…]

The last two use TLS with the option `ssl=true`. redis-py would ignore a misspelt option, or fail with it at each
connection, which looks like a server that is down; so everything is checked here. Options that would undo what
callstate relies on (retries, RESP3, decoded replies, sizes of pools) are unknown on purpose.
"""

from __future__ import annotations

import difflib
import math
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from msgspec import Struct

Topology = Literal["standalone", "sentinel", "cluster"]

TOPOLOGIES: Final[Mapping[str, Topology]] = {
    "redis": "standalone",
    "rediss": "standalone",
    "unix": "standalone",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
}
"""By scheme of the URL."""

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_BARE: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}(?:/[^?#]*)?")
_NODE: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?", re.ASCII)
_ENCODE: Final = "/ ? # @ and & in a user name or password have to be percent-encoded: %2F %3F %23 %40 %26"
_TLS_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class UrlOptionError(ValueError):
    """A part of a URL is wrong; the message names it and contains no password."""


class RedisUrl(Struct, frozen=True, kw_only=True):
    """A parsed URL.

    Args:
        topology: what the nodes are.
        nodes: hosts and ports: the server, or sentinels or cluster nodes to ask; empty for a Unix socket.
        path: of the Unix socket, or empty.
        service: the name of the primary that the sentinels watch, or empty.
        db: number of the database.
        username, password: for the servers; empty for none.
        tls: connect to the servers by TLS.
        options: redis-py's keyword arguments for connections to servers.
        sentinel: redis-py's keyword arguments for connections to sentinels that differ from those.
    """

    topology: Topology
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False
    options: Mapping[str, Any] = {}
    sentinel: Mapping[str, Any] = {}


class _Option(NamedTuple):
    parse: Callable[[str], Any]
    expected: str


def _flag(text: str) -> bool:
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600 or not math.isfinite(value):
        raise ValueError
    return value


def _database(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError
    return int(text)


def _size(text: str) -> int:
    value = int(text)
    if not 1024 <= value <= 16 * 1024 * 1024:
        raise ValueError
    return value


def _text(text: str) -> str:
    if not text:
        raise ValueError
    return text


def _cert_reqs(text: str) -> str:
    if text not in ("none", "optional", "required"):
        raise ValueError
    return text


def _ciphers(text: str) -> str:
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(text)  # raises SSLError
    return text


def _verify_flags(text: str) -> list[ssl.VerifyFlags]:
    return [ssl.VerifyFlags[name.strip()] for name in text.strip("[]").split(",")]


_SECONDS: Final = _Option(_seconds, "seconds, above 0")
_FLAG: Final = _Option(_flag, "true or false")
_PATH: Final = _Option(_text, "a path")
_WORD: Final = _Option(_text, "a text")
_FLAGS: Final = _Option(_verify_flags, "names of ssl.VerifyFlags, separated by commas")

_COMMON: Final = {
    "db": _Option(_database, "the number of a database"),
    "username": _WORD,
    "password": _WORD,
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "socket_keepalive": _FLAG,
    "socket_read_size": _Option(_size, "bytes, 1024 to 16777216"),
}
_TLS: Final = {
    "ssl_ca_certs": _PATH,
    "ssl_ca_path": _PATH,
    "ssl_ca_data": _Option(_text, "certificates in PEM form"),
    "ssl_certfile": _PATH,
    "ssl_keyfile": _PATH,
    "ssl_password": _WORD,
    "ssl_cert_reqs": _Option(_cert_reqs, "none, optional or required"),
    "ssl_check_hostname": _FLAG,
    "ssl_min_version": _Option(_TLS_VERSIONS.__getitem__, "1.2 or 1.3"),
    "ssl_ciphers": _Option(_ciphers, "a list of ciphers as OpenSSL has it"),
    "ssl_include_verify_flags": _FLAGS,
    "ssl_exclude_verify_flags": _FLAGS,
}
_SENTINEL: Final = {"sentinel_username": _WORD, "sentinel_password": _WORD, "sentinel_ssl": _FLAG}

_OPTIONS: Final[Mapping[str, Mapping[str, _Option]]] = {
    "redis": _COMMON,
    "rediss": _COMMON | _TLS,
    "unix": {name: option for name, option in _COMMON.items() if name != "socket_keepalive"},
    "redis+sentinel": _COMMON | _TLS | _SENTINEL | {"ssl": _FLAG},
    "redis+cluster": {name: option for name, option in (_COMMON | _TLS).items() if name != "db"} | {"ssl": _FLAG},
}
"""By scheme of the URL. `ssl` and those that begin with `sentinel_` are ours, the others redis-py's."""


def parse_redis_url(url: str) -> RedisUrl:
    """Parse a URL, without connecting to anything or opening a file.

    Raises:
        UrlOptionError: a part of it is wrong.
        ValueError: it is no Redis URL at all. No message quotes it, because it may contain a password.
    """
    parts = _split(url)
    options = _options(parts)
    topology, service, path = TOPOLOGIES[parts.scheme], "", unquote(parts.path)
    credentials, _, hosts = parts.netloc.rpartition("@")
    db = options.pop("db", None)
    if parts.scheme == "unix":
        if not path:
            raise ValueError("unix:// needs the path of a socket")
        if hosts:
            raise UrlOptionError("unix:// takes a path that begins with /, and no host")
    else:
        *names, path_db = _path_names(parts.scheme, path)
        db = path_db if db is None else db
        service, path = "".join(names), ""
    username, _, password = (unquote(part) for part in credentials.partition(":"))
    tls = options.pop("ssl", parts.scheme == "rediss")
    _check_tls(parts.scheme, options, tls=tls)
    sentinel = {name: options.pop(f"sentinel_{name}", default) for name, default in
                (("username", ""), ("password", ""), ("ssl", tls))}  # fmt: skip
    return RedisUrl(
        topology=topology,
        nodes=() if parts.scheme == "unix" else _nodes(hosts, parts.scheme),
        path=path,
        service=service,
        db=db or 0,
        username=options.pop("username", username),
        password=options.pop("password", password),
        tls=tls,
        options=options,
        sentinel=sentinel if topology == "sentinel" else {},
    )


def _split(url: str) -> SplitResult:
    """The parts of a URL; those of a bare `host:port` as if it began with redis://."""
    if "://" not in url:
        if _BARE.fullmatch(url) is None:
            raise ValueError("a Redis address is redis://, rediss://, unix:///path or host:port")
        url = f"redis://{url}"
    parts = urlsplit(url)
    if parts.scheme not in TOPOLOGIES:
        raise ValueError(f"{parts.scheme}:// is not a Redis URL; use {'://, '.join(TOPOLOGIES)}://")
    rest = url.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :].partition("?")[0] or parts.fragment or authority.count("@") > 1:
        raise UrlOptionError(_ENCODE)
    return parts


def _options(parts: SplitResult) -> dict[str, Any]:
    known = _OPTIONS[parts.scheme]
    found: dict[str, Any] = {}
    # with an unescaped ? & or @ in it, what looks like an option may be a part of a password
    secret = "@" in parts.query
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        option = known.get(name)
        if option is None:
            raise UrlOptionError(_ENCODE if secret else _unknown(name, parts.scheme, known))
        if name in found:
            raise UrlOptionError(f"{name}: given twice")
        secret = secret or "password" in name
        try:
            found[name] = option.parse(text)
        except (ValueError, KeyError, ssl.SSLError):
            shown = "" if secret or name == "ssl_ca_data" else f"; got {text!r}"
            raise UrlOptionError(f"{name}: expected {option.expected}{shown}") from None
    return found


def _unknown(name: str, scheme: str, known: Mapping[str, _Option]) -> str:
    if name in _TLS and scheme in ("redis", "unix"):
        return f"{name}: only rediss:// has TLS"
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
    return f"{name[:64]}: no such option of {scheme}://{hint}"


def _check_tls(scheme: str, options: Mapping[str, Any], *, tls: bool) -> None:
    needed = [name for name in options if name in _TLS]
    if needed and not tls and not options.get("sentinel_ssl"):
        raise UrlOptionError(f"{needed[0]}: {scheme}:// needs ssl=true for it")
    for name, other in (("ssl_keyfile", "ssl_certfile"), ("ssl_password", "ssl_certfile")):
        if name in options and other not in options:
            raise UrlOptionError(f"{name}: needs {other} as well")


def _path_names(scheme: str, path: str) -> list[Any]:
    """What the path says: the service of a sentinel URL, then the database or None."""
    *names, last = path.removeprefix("/").removesuffix("/").split("/")
    if scheme == "redis+cluster":
        if names or last:
            raise UrlOptionError("redis+cluster:// takes no path: a cluster has database 0 only")
        return [None]
    if scheme == "redis+sentinel":
        if not names:
            names, last = [last], ""
        if len(names) != 1 or not names[0]:
            raise UrlOptionError("redis+sentinel:// needs the service's name as its path: /mymaster or /mymaster/0")
    elif names:
        raise UrlOptionError(f"{scheme}:// takes the number of a database as its path, and nothing after it")
    if last and not (last.isascii() and last.isdigit()):
        raise UrlOptionError(f"the database in the path of {scheme}:// has to be a number; got {last!r}")
    return [*names, int(last) if last else None]


def _nodes(hosts: str, scheme: str) -> tuple[tuple[str, int], ...]:
    default = SENTINEL_PORT if scheme == "redis+sentinel" else REDIS_PORT
    listed = hosts.split(",")
    if len(listed) > 1 and TOPOLOGIES[scheme] == "standalone":
        raise UrlOptionError(
            f"{scheme}:// takes one host; several belong to redis+sentinel:// (with the ports of sentinels) or "
            "redis+cluster://"
        )
    nodes = []
    if hosts == "" and TOPOLOGIES[scheme] == "standalone":
        listed = ["localhost"]
    for node in listed:
        found = _NODE.fullmatch(node)
        if found is None or int(found["port"] or 1) not in range(1, 65536):
            raise ValueError("expected host:port, the port a number up to 65535")
        nodes.append((found["host"].strip("[]"), int(found["port"] or default)))
    return tuple(nodes)
