"""Where metrics may be served."""

from __future__ import annotations

from pathlib import Path

import pytest

from callstate_sidecar.config import metrics_address
from callstate_sidecar.config.errors import ConfigError
from callstate_sidecar.config.metrics_address import TcpAddress, resolve_metrics
from callstate_sidecar.config.schema import MetricsConfig


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_address, "find_spec", lambda name: name)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:9464", TcpAddress("127.0.0.1", 9464)),
        ("127.8.8.8:0", TcpAddress("127.8.8.8", 0)),
        ("localhost:9464", TcpAddress("127.0.0.1", 9464)),
        ("[::1]:9464", TcpAddress("::1", 9464)),
        ("/run/callstate/metrics.sock", Path("/run/callstate/metrics.sock")),
    ],
)
def test_addresses(text: str, address: object) -> None:
    assert resolve_metrics(MetricsConfig(listen=text)) == address


@pytest.mark.parametrize(
    "text",
    ["9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:²", "::1:9464",
     "[::1]", "[127.0.0.1]:9464", "example.org:9464", "metrics.sock", "/" + 107 * "x"],
)  # fmt: skip
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^metrics\.listen: "):
        resolve_metrics(MetricsConfig(listen=text, allow_remote="yes"))


@pytest.mark.parametrize("text", ["0.0.0.0:9464", "[::]:9464", "192.0.2.7:9464"])
def test_other_hosts_can_connect_only_if_that_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.allow_remote"):
        resolve_metrics(MetricsConfig(listen=text))
    assert resolve_metrics(MetricsConfig(listen=text, allow_remote="yes")) is not None


def test_the_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_address, "find_spec", lambda name: None)
    assert resolve_metrics(MetricsConfig()) is None
    with pytest.raises(ConfigError, match=r"prometheus-client: pip install 'callstate\[sidecar,metrics\]'"):
        resolve_metrics(MetricsConfig(listen="127.0.0.1:0"))
