"""store_url.py: no password survives being shown, and what a URL names has to be there."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callstate_sidecar.config.redis_url import UrlOptionError
from callstate_sidecar.config.store_url import check_store_files, check_store_url, redact_url
from support.budget import examples
from support.certificates import Certificates


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:", "sqlite:"),
        ("sqlite:/data/a@b.db", "sqlite:/data/a@b.db"),
        ("redis://cache:6379/1", "redis://cache:6379/1"),
        ("redis://:pw@cache:6379/1", "redis://:***@cache:6379/1"),
        ("redis://user:pw@cache", "redis://user:***@cache"),
        ("rediss://user:p:w@h@cache", "rediss://user:***@cache"),
        ("redis://user:p/w?x#y@cache", "redis://user:***@cache"),
        ("unix://:pw@/run/redis.sock", "unix://:***@/run/redis.sock"),
        ("unix:///run/redis.sock?db=1&password=pw", "unix:///run/redis.sock?db=1&password=***"),
        ("redis://cache?password=pw&db=1", "redis://cache?password=***&db=1"),
        ("redis+sentinel://h/m?sentinel_password=pw&db=1", "redis+sentinel://h/m?sentinel_password=***&db=1"),
        ("rediss://cache?ssl_password=pw", "rediss://cache?ssl_password=***"),
        ("user:pw@cache:6379", "***@cache:6379"),
        ("cache:6379", "cache:6379"),
    ],
)
def test_the_password_is_hidden_and_the_rest_is_not(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@settings(max_examples=examples(100))
@given(
    scheme=st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "http"]),
    user=st.from_regex(r"[a-z]{0,8}", fullmatch=True),
    password=st.text(min_size=1).map(lambda text: f"secret{text}secret"),
)
def test_no_part_of_any_password_is_shown(scheme: str, user: str, password: str) -> None:
    assert "secret" not in redact_url(f"{scheme}://{user}:{password}@cache:6379/0")
    assert "secret" not in redact_url(f"{user}:{password}@cache:6379")


# -- sqlite -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["sqlite:", "sqlite:x.db", "sqlite:/data/x.db", "sqlite:///data/x.db"])
def test_an_sqlite_url_has_a_path(url: str) -> None:
    check_store_url(url)
    check_store_files(url)


@pytest.mark.parametrize("url", ["sqlite:x.db?mode=ro", "sqlite://data/x.db", "sqlite:x.db#1"])
def test_parts_an_sqlite_url_can_not_have_are_refused(url: str) -> None:
    with pytest.raises(UrlOptionError, match="sqlite: takes a path"):
        check_store_url(url)


# -- files --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize(
    "options",
    [
        "ssl_ca_certs={0.authority}",
        "ssl_ca_path={0.authority.parent}",
        "ssl_ca_certs={0.authority}&ssl_certfile={0.client}&ssl_keyfile={0.client_key}",
        "ssl_certfile={0.client}&ssl_keyfile={0.locked_key}&ssl_password={0.password}",
    ],
)
def test_files_that_can_be_used_are_taken(certificates: Certificates, options: str) -> None:
    check_store_files(f"rediss://cache?{options.format(certificates)}")
    check_store_files(f"redis+sentinel://cache/calls?ssl=true&{options.format(certificates)}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ssl_ca_certs=/no/ca.pem", "ssl_ca_certs: No such file or directory: /no/ca.pem"),
        ("ssl_ca_certs={0.client_key}", "ssl_ca_certs: no CA certificate in it: {0.client_key}"),
        ("ssl_ca_data=nothing", "ssl_ca_data: no CA certificate in it"),
        ("ssl_ca_path=/no", "ssl_ca_path: no such directory: /no"),
        ("ssl_certfile=/no/client.pem", "ssl_certfile: No such file or directory: /no/client.pem"),
        ("ssl_certfile={0.client}&ssl_keyfile=/no/key", "ssl_keyfile: No such file or directory: /no/key"),
        ("ssl_certfile={0.client}", "ssl_certfile, ssl_keyfile: not a certificate with its key"),
        ("ssl_certfile={0.client}&ssl_keyfile={0.server_key}", "ssl_certfile, ssl_keyfile: not a certificate"),
        ("ssl_certfile={0.client}&ssl_keyfile={0.locked_key}", "ssl_certfile, ssl_keyfile: not a certificate"),
        (
            "ssl_certfile={0.client}&ssl_keyfile={0.locked_key}&ssl_password=hunter2",
            "ssl_certfile, ssl_keyfile: not a certificate with its key",
        ),
    ],
)
def test_files_that_can_not_be_used_are_named(certificates: Certificates, options: str, message: str) -> None:
    with pytest.raises(UrlOptionError) as caught:
        check_store_files(f"rediss://cache?{options.format(certificates)}")
    assert str(caught.value).startswith(message.format(certificates))
    assert "hunter2" not in str(caught.value)
