"""SECURITY.md names only tests that there are, and at least one for each attack."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| (?!attack|-)(.*) \|$", (ROOT / "SECURITY.md").read_text("utf-8").partition("\n| attack |")[2], re.M
)


@cache
def named_in(path: str) -> frozenset[str]:
    """The tests of a module, in the form `Class::test`."""
    names = set()
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{each.name}" for each in node.body if hasattr(each, "name")}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):  # a state machine: TestX = Machine.TestCase
            names |= {f"{each.id}::runTest" for each in node.targets if isinstance(each, ast.Name)}
    return frozenset(names)


def test_the_table_is_found() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0][:60])
def test_an_attack_has_a_defence_and_a_test(row: str) -> None:
    attack, defence, tests = row.split(" | ")
    assert attack
    assert defence
    named = re.findall(r"`([^`]+)`", tests)
    assert named
    for test in named:
        path, _, name = test.partition("::")
        assert name.rpartition("::")[2].startswith(("test_", "runTest")), test
        assert name in named_in(path), f"there is no {test}"
