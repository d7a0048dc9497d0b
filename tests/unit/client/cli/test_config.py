"""What `callstate config` prints can be pasted into a configuration file."""

from __future__ import annotations

import tomllib

import pytest

from callstate_client.cli.commands.config import as_in_the_file
from callstate_sidecar.config.options import OPTIONS
from callstate_sidecar.config.origins import as_sent


@pytest.mark.parametrize("key", OPTIONS)
def test_a_value_is_as_the_file_has_it(key: str) -> None:
    default = OPTIONS[key].default
    assert tomllib.loads(f"value = {as_in_the_file(as_sent(default))}") == {"value": default}
