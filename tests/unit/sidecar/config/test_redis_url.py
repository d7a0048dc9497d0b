"""redis_url.py: what a URL says, and what is wrong with one that can't be used."""

# ruff: noqa: S106 - the passwords are those of no server

from __future__ import annotations

import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callstate_sidecar.config.redis_url import RedisUrl, UrlOptionError, parse_redis_url
from support.budget import examples

SENTINEL = {"username": "", "password": "", "ssl": False}


def standalone(*nodes: tuple[str, int], **beside: object) -> RedisUrl:
    return RedisUrl(topology="standalone", nodes=nodes, **beside)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("cache:6379", standalone(("cache", 6379))),
        ("10.0.0.1:7000/3", standalone(("10.0.0.1", 7000), db=3)),
        ("[::1]:6379", standalone(("::1", 6379))),
        ("redis://", standalone(("localhost", 6379))),
        ("redis://cache/", standalone(("cache", 6379))),
        ("REDIS://cache", standalone(("cache", 6379))),
        ("redis://u:p%40%2F@h:1/2", standalone(("h", 1), username="u", password="p@/", db=2)),
        ("redis://:p:w@h", standalone(("h", 6379), password="p:w")),
        ("redis://h?username=u&password=p%26", standalone(("h", 6379), username="u", password="p&")),
        ("redis://h/1?db=2", standalone(("h", 6379), db=2)),
        ("redis://h?socket_timeout=0.5", standalone(("h", 6379), options={"socket_timeout": 0.5})),
        ("rediss://h", standalone(("h", 6379), tls=True)),
        (
            "rediss://h?ssl_check_hostname=False&ssl_cert_reqs=none&ssl_min_version=1.3",
            standalone(
                ("h", 6379),
                tls=True,
                options={
                    "ssl_check_hostname": False,
                    "ssl_cert_reqs": "none",
                    "ssl_min_version": ssl.TLSVersion.TLSv1_3,
                },
            ),
        ),
        ("unix:///run/redis.sock?db=1", standalone(path="/run/redis.sock", db=1)),
        ("unix://:pw@/run/my%20redis.sock", standalone(path="/run/my redis.sock", password="pw")),
        (
            "redis+sentinel://h1,h2:7,[::1]:8/calls",
            RedisUrl(
                topology="sentinel",
                nodes=(("h1", 26379), ("h2", 7), ("::1", 8)),
                service="calls",
                sentinel=SENTINEL,
            ),
        ),
        (
            "redis+sentinel://u:p@h1/calls/3?sentinel_username=s&sentinel_password=t&ssl=yes&sentinel_ssl=no",
            RedisUrl(
                topology="sentinel",
                nodes=(("h1", 26379),),
                service="calls",
                db=3,
                username="u",
                password="p",
                tls=True,
                sentinel={"username": "s", "password": "t", "ssl": False},
            ),
        ),
        (
            "redis+cluster://h1:7000,h2?ssl=true&ssl_ca_certs=/ca.pem",
            RedisUrl(
                topology="cluster",
                nodes=(("h1", 7000), ("h2", 6379)),
                tls=True,
                options={"ssl_ca_certs": "/ca.pem"},
            ),
        ),
    ],
)
def test_each_part_of_a_url_is_parsed(url: str, parsed: RedisUrl) -> None:
    assert parse_redis_url(url) == parsed


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h?socket_timeot=1", "socket_timeot: no such option of redis://; did you mean socket_timeout?"),
        ("redis://h?foo=1", "foo: no such option of redis://; there are db, username,"),
        ("redis://h?retry_on_timeout=true", "retry_on_timeout: no such option"),
        ("redis://h?decode_responses=true", "decode_responses: no such option"),
        ("redis://h?socket_timeout=soon", "socket_timeout: expected seconds, above 0; got 'soon'"),
        ("redis://h?socket_timeout=0", "socket_timeout: expected seconds, above 0; got '0'"),
        ("redis://h?socket_timeout=nan", "socket_timeout: expected seconds"),
        ("redis://h?socket_keepalive=maybe", "socket_keepalive: expected true or false; got 'maybe'"),
        ("redis://h?db=first", "db: expected the number of a database; got 'first'"),
        ("redis://h?db=-1", "db: expected the number of a database; got '-1'"),
        ("redis://h?db=1&db=2", "db: given twice"),
        ("redis://h?db", "db: expected the number of a database; got ''"),
        ("redis://h/zero", "the database in the path of redis:// has to be a number; got 'zero'"),
        ("h:1/zero", "the database in the path of redis:// has to be a number; got 'zero'"),
        ("redis://h/0/x", "redis:// takes the number of a database as its path"),
        ("redis://h1,h2", "redis:// takes one host; several belong to redis+sentinel://"),
        ("redis://h?ssl_ca_certs=/x", "ssl_ca_certs: only rediss:// has TLS"),
        ("unix:///s?ssl_ca_certs=/x", "ssl_ca_certs: only rediss:// has TLS"),
        ("unix://run/redis.sock", "unix:// takes a path that begins with /, and no host"),
        ("rediss://h?ssl_cert_reqs=some", "ssl_cert_reqs: expected none, optional or required; got 'some'"),
        ("rediss://h?ssl_min_version=1.1", "ssl_min_version: expected 1.2 or 1.3; got '1.1'"),
        ("rediss://h?ssl_ciphers=none", "ssl_ciphers: expected a list of ciphers"),
        ("rediss://h?ssl_include_verify_flags=X", "ssl_include_verify_flags: expected names of ssl.VerifyFlags"),
        ("rediss://h?ssl_keyfile=/k", "ssl_keyfile: needs ssl_certfile as well"),
        ("redis+sentinel://h", "redis+sentinel:// needs the service's name as its path"),
        ("redis+sentinel://h/a/b/c", "redis+sentinel:// needs the service's name as its path"),
        ("redis+sentinel://h/a/b", "the database in the path of redis+sentinel:// has to be a number; got 'b'"),
        ("redis+sentinel://h/a?ssl_ca_certs=/x", "ssl_ca_certs: redis+sentinel:// needs ssl=true for it"),
        ("redis+cluster://h/1", "redis+cluster:// takes no path"),
        ("redis+cluster://h?db=0", "db: no such option of redis+cluster://"),
        ("redis+cluster://h?sentinel_password=x", "sentinel_password: no such option of redis+cluster://"),
        ("redis://:p@ss@h", "/ ? # @ and & in a user name or password have to be percent-encoded"),
    ],
)
def test_the_wrong_part_of_a_url_is_named(url: str, message: str) -> None:
    with pytest.raises(UrlOptionError) as caught:
        parse_redis_url(url)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "/run/redis.sock", "http://h", "redis+other://h", "redis://h:port", "redis://h:0",
     "redis://h:65536", "redis+cluster://h1,,h2", "redis+cluster://", "unix://", "redis://h h"],
)  # fmt: skip
def test_a_url_that_is_not_of_redis_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis|port|unix"):
        parse_redis_url(url)


def refusal(url: str) -> str:
    """What is said of a URL; nothing if it is taken."""
    try:
        parse_redis_url(url)
    except ValueError as error:
        return str(error)
    return ""


@settings(max_examples=examples(100))
@given(
    url=st.sampled_from(
        [
            "redis://u:{}@h/zero", "redis://:{}@h?foo=1", "redis://{}@h:port", "redis://h?password={}&db=x",
            "redis+sentinel://h?sentinel_password={}", "redis+cluster://:{}@h/1", "unix://:{}@s", "{}@h:1",
            "rediss://h?ssl_password={}",
        ]
    ),
    password=st.text("s3cret/?#@=&: ", min_size=1).map(lambda text: f"{text}hunter2{text}"),
)  # fmt: skip
def test_no_message_quotes_a_password(url: str, password: str) -> None:
    assert "hunter2" not in refusal(url.format(password))
