"""What tests of the daemon's parts share."""

from __future__ import annotations

import pytest


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, requests sent together are served in one turn of the loop."""
    monkeypatch.setattr("callstate_sidecar.serving.connection.SHARE_S", 60.0)
    monkeypatch.setattr("callstate_sidecar.serving.fair_queue.TURN_S", 60.0)
