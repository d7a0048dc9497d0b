"""A store for FastAPI and Starlette applications: connected while they serve, and given to their endpoints."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from callstate_client.api import CallStore
from callstate_client.client import connect

__all__ = ["get_store", "lifespan", "serving"]

FINISH_S: Final = 60.0
"""How long calls may go on after the application was told to stop, seconds."""


@asynccontextmanager
async def serving(
    app: Starlette, store: CallStore | None = None, *, finish_s: float = FINISH_S, **options: Any
) -> AsyncIterator[CallStore]:
    """Give an application a store while it serves: for a lifespan that does other things too.

    On leaving, calls that are held may end for up to `finish_s`; the rest are released for other workers.

    Args:
        app: the application.
        store: to be used instead of a new connection, such as a MemoryStore in tests; it is left open.
        finish_s: see above, seconds.
        options: of `connect()`.

    Raises:
        NoDaemonError, ConflictError, UnsupportedProtocolError: as `connect()`; the application does not start.
    """
    if store is None:
        async with connect(**options) as connected, serving(app, connected, finish_s=finish_s):
            yield connected
        return
    app.state.callstate = store
    try:
        yield store
    finally:
        await store.leave(finish_s)


def lifespan(
    store: CallStore | None = None, *, finish_s: float = FINISH_S, **options: Any
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """The `lifespan` of an application that needs nothing else; the arguments are those of `serving`."""

    @asynccontextmanager
    async def with_store(app: Starlette) -> AsyncIterator[None]:
        async with serving(app, store, finish_s=finish_s, **options):
            yield

    return with_store


def get_store(connection: HTTPConnection) -> CallStore:
    """The application's store, for `Depends(get_store)` in HTTP and WebSocket endpoints of FastAPI; in Starlette it
    is called with the request or the WebSocket.

    Raises:
        RuntimeError: the application has none.
    """
    store: CallStore | None = getattr(connection.app.state, "callstate", None)
    if store is None:
        raise RuntimeError("no store: give the application lifespan=callstate_client.adapters.fastapi.lifespan()")
    return store
