"""The lock files: they have what pyproject.toml requires, each file by its hash."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock = script("lock")
audit = script("audit")


def test_the_lock_files_have_what_is_required() -> None:
    assert lock.main(["--check"]) == 0


@pytest.mark.parametrize("name", lock.LOCKS)
def test_every_file_is_pinned_by_hash(name: str) -> None:
    blocks = re.split(r"\n(?=\S)", (ROOT / name).read_text())[1:]
    assert blocks
    assert [block for block in blocks if not re.match(r"\S+==\S+ [^\n]*\\\n +--hash=sha256:", block)] == []


def test_a_requirement_that_is_missing_or_newer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname="x"\ndependencies=["msgspec>=0.19"]\n[project.optional-dependencies]\n'
        'dev=["x[more]", "ruff"]\nmore=["rich>=99"]\n'
    )
    (tmp_path / "some.lock").write_text(
        "msgspec==0.20.0 \\\n    --hash=sha256:0\nrich==13.0 \\\n    --hash=sha256:0\n"
    )
    monkeypatch.setattr(lock, "ROOT", tmp_path)
    monkeypatch.setattr(lock, "LOCKS", {"some.lock": ("dev",)})
    assert sorted(lock.unsatisfied("some.lock")) == [
        "some.lock has 13.0 rich, not rich>=99",
        "some.lock has no ruff, not ruff",
    ]


def pip_audit(directory: Path, answer: str) -> str:
    """A program that answers like pip-audit."""
    program = directory / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    program.chmod(0o755)
    return str(program)


def test_an_advisory_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    advisory = '{"id":"CVE-1","fix_versions":["2.0"]}'
    answer = f'{{"dependencies":[{{"name":"x","version":"1.0","vulns":[{advisory}]}}]}}'
    assert audit.main([pip_audit(tmp_path, answer), "--if-reachable"]) == 1
    assert "x 1.0: CVE-1, fixed in 2.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "pip-audit says nothing"),
        ('{"dependencies":[{"name":"x","skip_reason":"not found on PyPI"}]}', "not found"),
    ],
)
def test_no_answer_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str, reason: str
) -> None:
    program = pip_audit(tmp_path, answer)
    assert audit.main([program]) == 2
    assert audit.main([program, "--if-reachable"]) == 0
    assert f"not checked: {reason}" in capsys.readouterr().out
