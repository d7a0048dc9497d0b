"""Documents in the SQLite file, in parts, so that a turn is written for what it adds.

    document.body         the document as it was last written whole
    session.head          what has changed in its head since, from `head_position` on
    document_tail         what has been written over its end since, each piece at its position

A patch (`engine/sessions/layout.py`) writes the counters in the head again, and adds a turn over the closing
brackets: the one goes into the session's own row, which every write changes anyway, the other is a row of
`document_tail`, beside those before it. So a flush writes a page or two, however long the history. The parts
together are hardly larger than the document. A whole write, as at the end of the call, makes one of them.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from callstate_client.engine.sessions.writes import Patch

_MAX_HEAD_BYTES: Final = 2048
"""A larger change of the head is not kept beside meta, where each heartbeat would write it again."""


class Changed(NamedTuple):
    """What has changed in a document's head: `session.head_position` and `session.head`."""

    position: int
    head: bytes | None


UNCHANGED: Final = Changed(0, None)


def put_document(connection: sqlite3.Connection, key: int, document: bytes) -> None:
    """Write the whole document of a session. The session's row must have no change of the head any more."""
    connection.execute("INSERT OR REPLACE INTO document VALUES (?, ?)", (key, document))
    connection.execute("DELETE FROM document_tail WHERE key = ?", (key,))


def drop_document(connection: sqlite3.Connection, key: int) -> None:
    """Delete the document of a session, which stays with its meta."""
    connection.execute("DELETE FROM document WHERE key = ?", (key,))
    connection.execute("DELETE FROM document_tail WHERE key = ?", (key,))


def set_aside(connection: sqlite3.Connection, key: int) -> None:
    """Keep what other software wrote, which is about to be replaced, for as long as the session."""
    connection.execute(
        "INSERT OR REPLACE INTO document_set_aside SELECT key, body FROM document WHERE key = ?", (key,)
    )


def patch_document(connection: sqlite3.Connection, key: int, changed: Changed, patch: Patch) -> Changed:
    """Change a document in place.

    Args:
        key: of the session, which has a document that the patch was made for.
        changed: what its head has changed so far.

    Returns:
        what its head has changed then, to be written into the session's row.
    """
    end = _over(changed, patch.offset, patch.head)
    if end.head is not None and len(end.head) > _MAX_HEAD_BYTES:
        document = patch.apply(whole(connection, key, changed))
        put_document(connection, key, document)
        return UNCHANGED
    if patch.turns:
        row = (key, patch.end, patch.turns)
        connection.execute("INSERT OR REPLACE INTO document_tail VALUES (?, ?, ?)", row)
    return end


def _over(changed: Changed, offset: int, head: bytes) -> Changed:
    """A change of the head over earlier ones. Each reaches to the end of the head's room."""
    if changed.head is None or offset <= changed.position:
        return Changed(offset, head)
    return Changed(changed.position, changed.head[: offset - changed.position] + head)


def whole(connection: sqlite3.Connection, key: int, changed: Changed) -> bytes:
    """The document of a session that has one. In a transaction, if other processes may write meanwhile."""
    body: bytes
    (body,) = connection.execute("SELECT body FROM document WHERE key = ?", (key,)).fetchone()
    return together(connection, key, body, changed)


def together(connection: sqlite3.Connection, key: int, body: bytes, changed: Changed) -> bytes:
    """The document that these parts make, with those of `document_tail`."""
    tail = connection.execute(
        "SELECT position, bytes FROM document_tail WHERE key = ? ORDER BY position", (key,)
    ).fetchall()
    if isinstance(body, str):  # as other software may write it
        body = body.encode()
    if not isinstance(body, bytes):
        raise TypeError("the document is neither bytes nor text")
    if not tail and changed.head is None:
        return body
    document = bytearray(body)
    for offset, data in ((changed.position, changed.head or b""), *tail):
        document[offset : offset + len(data)] = data
    return bytes(document)
