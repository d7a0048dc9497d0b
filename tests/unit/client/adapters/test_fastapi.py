"""The store of a FastAPI or Starlette application: connected while it serves, and given to endpoints."""

from __future__ import annotations

from typing import Annotated

import pytest

from callstate_client import CallStore, MemoryStore, NoDaemonError, SessionState, ShuttingDownError

pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'callstate[fastapi]'")
pytest.importorskip("httpx2", reason="httpx2, which FastAPI's test client needs, is not installed")

from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from callstate_client.adapters import fastapi as adapter

Store = Annotated[CallStore, Depends(adapter.get_store)]


def application(store: CallStore) -> FastAPI:
    app = FastAPI(lifespan=adapter.lifespan(store, finish_s=0))

    @app.get("/calls/{call_id}")
    async def read(call_id: str, store: Store) -> int:
        return (await store.get(call_id)).turn_count

    @app.websocket("/media/{call_id}")
    async def media(call_id: str, socket: WebSocket, store: Store) -> None:
        await socket.accept()
        async with store.hold(SessionState(call_id, provider="twilio")) as call:
            call.add_turn("user", await socket.receive_text())
        await socket.send_text("kept")

    return app


def test_http_and_websocket_endpoints_get_the_store() -> None:
    with TestClient(application(MemoryStore())) as client:
        with client.websocket_connect("/media/c1") as socket:
            socket.send_text("Hello")
            assert socket.receive_text() == "kept"
        assert client.get("/calls/c1").json() == 1


def test_an_application_that_stops_takes_no_more_calls() -> None:
    store = MemoryStore()
    app = application(store)

    @app.get("/held")
    async def held() -> None:
        app.state.call = await store.open_call(SessionState("c2"))

    with TestClient(app) as client:
        assert client.get("/held").status_code == 200
        assert app.state.call.is_held
    assert isinstance(app.state.call.lost, ShuttingDownError)


def test_without_a_daemon_the_application_does_not_start(tmp_path) -> None:
    app = FastAPI(lifespan=adapter.lifespan(socket=tmp_path / "none.sock", wait_s=0))
    with pytest.raises(NoDaemonError), TestClient(app):
        pass


def test_starlette_asks_for_it_with_the_request() -> None:
    async def endpoint(request: Request) -> PlainTextResponse:
        return PlainTextResponse(type(adapter.get_store(request)).__name__)

    app = Starlette(routes=[Route("/", endpoint)], lifespan=adapter.lifespan(MemoryStore()))
    with TestClient(app) as client:
        assert client.get("/").text == "MemoryStore"


def test_an_application_without_the_lifespan_is_told() -> None:
    app = FastAPI()

    @app.get("/")
    async def read(store: Store) -> None: ...

    with TestClient(app) as client, pytest.raises(RuntimeError, match="no store: give the application lifespan="):
        client.get("/")
