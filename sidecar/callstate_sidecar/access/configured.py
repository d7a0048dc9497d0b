"""The policy that a configuration stands for."""

from __future__ import annotations

import os

from callstate_sidecar.access.policy import Policy
from callstate_sidecar.access.principals import principals
from callstate_sidecar.config.schema import AccessConfig


def configured_policy(config: AccessConfig) -> Policy:
    """The policy, with the names looked up on this host.

    Raises:
        ConfigError: there is no such user or group.
    """
    return Policy(
        share=config.share,
        allow=principals(config.allow, "access.allow") if config.allow.strip(" ,") else None,
        operators=principals(config.operators, "access.operators"),
        own_uid=os.geteuid(),
    )
