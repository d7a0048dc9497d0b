"""Texts of a document: their length in bytes, and the form of its times."""

from __future__ import annotations

from callstate_client.errors import InvalidParamsError
from callstate_client.model.times import YEAR_0, parse_time
from callstate_client.protocol.ids import MAX_NAME_BYTES


def check_bytes(text: str, path: str, most: int = MAX_NAME_BYTES) -> None:
    """Refuse a text of more bytes than this; its type already limits it to as many characters."""
    if not text.isascii() and len(text.encode()) > most:
        raise InvalidParamsError(f"longer than {most} bytes at {path}", path=path, expected=f"at most {most} bytes")


def check_time(text: str | None, path: str) -> None:
    """Refuse anything but an RFC 3339 time or None."""
    if text is not None:
        try:
            if text.startswith(YEAR_0):
                raise ValueError("year 0")
            parse_time(text)
        except ValueError as error:
            raise InvalidParamsError(f"{error} at {path}", path=path, expected="RFC 3339 time") from error
