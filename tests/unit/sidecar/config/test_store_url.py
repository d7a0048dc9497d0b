"""store_url.py: no password survives being shown, whatever the URL looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callstate_sidecar.config.store_url import redact_url


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
        ("user:pw@cache:6379", "***@cache:6379"),
        ("cache:6379", "cache:6379"),
    ],
)
def test_the_password_is_hidden_and_the_rest_is_not(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@given(
    scheme=st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "http"]),
    user=st.from_regex(r"[a-z]{0,8}", fullmatch=True),
    password=st.text(min_size=1).map(lambda text: f"secret{text}secret"),
)
def test_no_part_of_any_password_is_shown(scheme: str, user: str, password: str) -> None:
    assert "secret" not in redact_url(f"{scheme}://{user}:{password}@cache:6379/0")
    assert "secret" not in redact_url(f"{user}:{password}@cache:6379")
