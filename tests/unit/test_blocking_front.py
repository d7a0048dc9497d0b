"""The blocking front's methods are those of the asyncio front: scripts/blocking_front.py writes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "blocking_front.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("blocking_front", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(script: ModuleType) -> str:
    return script.SOURCE.read_text("utf-8")


def test_the_committed_file_is_current(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["blocking_front.py", "--check"])
    script.main()


def test_a_method_that_was_changed_in_one_place_alone(
    script: ModuleType, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edited = tmp_path / "session_api.py"
    edited.write_text(source.replace("async def ping(", "async def pong("))
    monkeypatch.setattr(script, "SOURCE", edited)
    monkeypatch.setattr("sys.argv", ["blocking_front.py", "--check"])
    with pytest.raises(SystemExit, match=r"make sync-front(.|\n)*\+    def pong"):
        script.main()


def test_the_written_file_is_current(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "TARGET", tmp_path / "session_api.py")
    monkeypatch.setattr("sys.argv", ["blocking_front.py"])
    script.main()
    monkeypatch.setattr("sys.argv", ["blocking_front.py", "--check"])
    script.main()


@pytest.mark.parametrize("name", ["update_heartbeat", "_claimant"])
def test_a_name_that_the_script_expects_must_exist(script: ModuleType, source: str, name: str) -> None:
    with pytest.raises(SystemExit, match=name):
        script.generate(source.replace(name, "renamed"))
