"""What is wrong with a configuration. The daemon then does not start (exit status 2)."""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration can't be used: names the key, what was expected and where the value is from."""


def reason(error: OSError | UnicodeDecodeError) -> str:
    """Why a file can't be read, in a few words."""
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8"


def check_encodable(text: str, key: str) -> None:
    """Refuse text with bytes that are not UTF-8, as Python represents them: it can't be put into a reply, an event
    or a log line.

    Args:
        text: of a flag or variable.
        key: the configuration's key for it.

    Raises:
        ConfigError: it has such bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{key}: not UTF-8") from None  # without the text, which may be a password
