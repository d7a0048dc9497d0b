"""What is wrong with a configuration. The daemon then does not start (exit status 2)."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration can't be used: names the key, what was expected and where the value is from."""


def reason(error: OSError | UnicodeDecodeError) -> str:
    """Why a file can't be read, in a few words."""
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8"
