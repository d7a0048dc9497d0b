"""The reference has every public name, each public method a docstring with its errors, and each error a remedy."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import callstate_client
import callstate_client.sync
from callstate_client import errors
from callstate_client.adapters import chat, fastapi
from callstate_client.calls.hold import Hold
from callstate_client.calls.shutdown import Graceful
from callstate_sidecar.stores.redis import RedisStore
from callstate_sidecar.stores.sqlite import SqliteStore

DOCS = Path(__file__).parents[2] / "docs"
ADAPTERS = Path(callstate_client.__file__).parent / "adapters"
NOT_ADAPTERS = ("__init__", "recorder")
"""Modules beside the adapters: what they share."""

OURS = ("callstate_client", "callstate_sidecar")
ERRORS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]


def documented() -> list[str]:
    """What the pages have the generator document."""
    pages = "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
    return re.findall(r"^::: (\S+)$", pages, re.MULTILINE)


def hidden(name: str) -> str:
    """A pattern for the members that a page leaves out: what is public for other modules, and not for users."""
    pages = "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
    found = re.search(
        rf'^::: {re.escape(name)}\n(?:    .*\n)*?      filters: \["!\^_", "!(.*)"\]', pages, re.MULTILINE
    )
    return found[1] if found else "$."


# -- every public name ----------------------------------------------------------------------------------------


def test_each_public_name_is_on_a_page_once() -> None:
    names = documented()
    assert len(names) == len(set(names))
    public = {f"callstate_client.{name}" for name in callstate_client.__all__}
    public |= {f"callstate_client.sync.{name}" for name in callstate_client.sync.__all__}
    public |= {
        f"callstate_client.adapters.{path.stem}" for path in ADAPTERS.glob("*.py") if path.stem not in NOT_ADAPTERS
    }
    public |= {f"{kind.__module__.rpartition('.')[0]}.{kind.__name__}" for kind in (RedisStore, SqliteStore)}
    assert public - set(names) == set()


def test_each_error_is_public() -> None:
    assert {kind.__name__ for kind in ERRORS} <= set(callstate_client.__all__)


# -- docstrings -----------------------------------------------------------------------------------------------


def public_objects() -> Iterator[tuple[str, Any]]:
    for module in (callstate_client, callstate_client.sync, chat, fastapi):
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)
    for kind in (Hold, Graceful, RedisStore, SqliteStore):
        yield f"{kind.__module__}.{kind.__name__}", kind


def methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods and properties of a class that are ours."""
    for owner in kind.__mro__:
        if owner.__module__.partition(".")[0] not in OURS:
            continue
        for name, member in vars(owner).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if not name.startswith("_") and inspect.isfunction(function):
                yield name, function


def raised(function: Callable[..., Any]) -> set[str]:
    """The exceptions that a function's own body raises by their name, and does not catch."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(called, ast.Name) and called.id.endswith("Error"):
                names.add(called.id)
    return names - {"NotImplementedError"}


EACH = [
    pytest.param(name, value, id=name)
    for name, value in public_objects()
    if inspect.isclass(value) or inspect.isfunction(value)  # an alias of a type has its text in its module
]


@pytest.mark.parametrize(("name", "value"), EACH)
def test_every_public_name_has_a_docstring_with_its_errors(name: str, value: Any) -> None:
    assert inspect.getdoc(value)
    if inspect.isfunction(value):
        assert raised(value) <= set(re.findall(r"\w+Error", inspect.getdoc(value) or ""))
        return
    general = "".join(kind.__doc__ or "" for kind in value.__mro__ if kind.__module__.startswith(OURS))
    pattern = hidden(name)
    for method, function in methods(value):
        if re.search(pattern, method):
            continue
        said = inspect.getdoc(getattr(value, method)) or inspect.getdoc(function) or ""
        assert said, f"{name}.{method}"
        told = set(re.findall(r"\w+Error", said + general))
        assert raised(function) <= told, f"{name}.{method}"


def test_the_errors_that_docstrings_name_exist() -> None:
    known = {kind.__name__ for kind in ERRORS} | set(dir(builtins))
    for name, value in public_objects():
        documents = [inspect.getdoc(value) or ""]
        if inspect.isclass(value):
            documents += [function.__doc__ or "" for _, function in methods(value)]
        for document in documents:
            # in asyncio: CancelledError, InvalidStateError
            told = set(re.findall(r"(?<![.\w])[A-Z]\w+Error\b", document)) - {"CancelledError", "InvalidStateError"}
            assert told <= known, name


# -- the page of errors ---------------------------------------------------------------------------------------


def table(title: str) -> list[list[str]]:
    """The rows of the table under a heading, without its head."""
    part = (DOCS / "errors.md").read_text("utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip(" |`") for cell in row] for row in rows[1:]]


def test_each_wire_error_has_cause_and_remedy() -> None:
    told = [(row[0], int(row[1]), row[2]) for row in table("What a daemon answers")]
    assert told == [
        (kind.__name__, code, "yes" if kind.retryable else "no") for code, kind in errors.BY_CODE.items()
    ]
    assert all(len(row) == 5 and row[3] and row[4] for row in table("What a daemon answers"))


def test_each_other_error_has_cause_and_remedy() -> None:
    others = [
        kind
        for kind in ERRORS
        if kind is not errors.CallstateError and not issubclass(kind, errors.WireError)
    ]  # fmt: skip
    rows = table("What the client finds itself")
    assert [(row[0], row[1]) for row in rows] == [
        (kind.__name__, "yes" if kind.retryable else "no") for kind in others
    ]
    assert all(len(row) == 4 and row[2] and row[3] for row in rows)


def test_the_page_says_which_are_of_a_builtin_kind() -> None:
    text = (DOCS / "errors.md").read_text("utf-8")
    for kind in ERRORS:
        for base in kind.__bases__:
            if base.__module__ == "builtins" and base is not Exception:
                (row,) = re.findall(rf"^\| `{kind.__name__}` .*$", text, re.MULTILINE)
                assert f"`{base.__name__}` too" in row


# -- names that a worker needs ---------------------------------------------------------------------------------

NAMES = (
    "end_on", "amend_last_turn", 'beat="manual"', "stall_timeout_s", "call.lost", "OverloadedError", "SqliteStore",
    "RedisStore", "close_timeout_s", "cancel_on_lost", "watchdog_s", "replace_ended", "resume=True", "steal=True",
    "max_duration_s",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_guide_explains_it(name: str) -> None:
    pages = [path for path in DOCS.rglob("*.md") if "reference" not in path.parts]
    assert any(name in page.read_text("utf-8") for page in pages)
