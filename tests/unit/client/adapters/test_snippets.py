"""The code in docs/adapters.md, and that about tool calls in docs/client.md, does what the text says."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Annotated, Any

import pytest

from callstate_client import CallStore, MemoryStore, SessionState, tool_call

DOCS = Path(__file__).parents[4] / "docs"


def snippet(document: str, title: str) -> str:
    """The first block of Python under a heading."""
    _, _, behind = (DOCS / document).read_text("utf-8").partition(f"\n## {title}\n")
    found = re.search(r"^```python\n(.*?)^```$", behind, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


async def run(code: str, names: dict[str, Any]) -> None:
    """Run code that may await."""
    running = eval(compile(code, "snippet", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)  # noqa: S307 - ours
    if running is not None:
        await running


class Model:
    async def chat(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        assert messages == [{"role": "user", "content": "A table for two, please."}]
        return {"role": "assistant", "content": None, "tool_calls": [tool_call("t1", "book")]}


async def test_chat_messages() -> None:
    store = MemoryStore()
    await run(
        snippet("adapters.md", "Chat messages"), {"store": store, "SessionState": SessionState, "model": Model()}
    )
    assert [turn.role for turn in (await store.get("call-1")).state.history] == ["user", "agent"]


async def test_tool_calls() -> None:
    async with MemoryStore().hold(SessionState("c1")) as call:
        await run(snippet("client.md", "Tool calls and other turns"), {"call": call})
        assert [turn.role for turn in call.state.history] == ["agent", "tool"]


def test_fastapi(monkeypatch: pytest.MonkeyPatch) -> None:
    fastapi = pytest.importorskip("fastapi", reason="FastAPI is not installed: pip install 'callstate[fastapi]'")
    pytest.importorskip("httpx2", reason="httpx2, which FastAPI's test client needs, is not installed")
    from fastapi.testclient import TestClient

    store = MemoryStore()
    monkeypatch.setattr("callstate_client.adapters.fastapi.connect", lambda **_: store)
    names = {"Annotated": Annotated, "CallStore": CallStore, "SessionState": SessionState}
    names |= {name: getattr(fastapi, name) for name in ("FastAPI", "Depends", "WebSocket")}
    exec(snippet("adapters.md", "FastAPI and Starlette"), names)  # noqa: S102 - ours
    with TestClient(names["app"]) as client, client.websocket_connect("/media/c1") as socket:
        socket.send_text("Hello")
        socket.close()
    assert store.closed


@pytest.mark.framework
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("title", "package"), [("Pipecat", "pipecat"), ("LiveKit Agents", "livekit.agents")])
def test_the_names_imported_by_the_snippets_exist(title: str, package: str) -> None:
    code = snippet("adapters.md", title)
    compile(code, "snippet", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    pytest.importorskip(package, reason=f"{title} is not installed: make test-adapters")
    (line,) = [line for line in code.splitlines() if line.startswith("from ")]
    exec(line)  # noqa: S102 - ours
