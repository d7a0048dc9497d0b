"""Write the blocking front's SessionApi from the asyncio one: `make sync-front`.

A method of the protocol is the same on both fronts but for `async` and `await`: it makes a request, sends it and
decodes the reply. So the methods are copied with their signatures, docstrings and comments, in their order. What
differs by nature (how a request is sent, who holds a call) is written by hand in callstate_client/sync.

    python scripts/blocking_front.py            write it
    python scripts/blocking_front.py --check    fail unless it is as it would be written
"""

from __future__ import annotations

import ast
import difflib
import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "client" / "callstate_client"
SOURCE = CLIENT / "session_api.py"
TARGET = CLIENT / "sync" / "session_api.py"
CLASS = "SessionApi"

# Not copied: for calls that queue their mutations.
ASYNCIO_ONLY = {"_mutate", "_update_beside"}
# Written by hand in requester.py: it is the most frequent request, and its line is encoded once.
BY_HAND = {"update_heartbeat"}

SUBSTITUTIONS = {
    # nothing is queued here
    r" +If this store holds the call, the state is saved after (.+\n)+\n": "",
    r"\basync def\b": "def",
    r"\(await (.+?\))\)(?=\.)": r"\1",
    r"\bawait ": "",
    r"\bAsyncIterator\b": "Iterator",
    r"\bself\._claimant\b": "self.worker_id",
    r"\bself\._mutate\b": "self._execute",
    r"\bself\._update_beside\b": "self._rewrite_head",
}

HEAD = f'''"""One method for each verb of the protocol, blocking.

Generated from callstate_client/{SOURCE.name} by scripts/{Path(__file__).name}: change that, then `make sync-front`.
"""

from __future__ import annotations

{{imports}}
from callstate_client.sync.requester import Requester

__all__ = ["{CLASS}"]


class {CLASS}(Requester):
    """The verbs of the protocol; each returns when the daemon has answered.

    Those of the asyncio front's `{CLASS}`, with the same parameters and errors.
    """
'''


def generate(source: str) -> str:
    """The module for this source."""
    tree = ast.parse(source)
    lines = source.splitlines()
    [api] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == CLASS]
    methods = [node for node in api.body if isinstance(node, ast.AsyncFunctionDef)]
    check_used("methods", ASYNCIO_ONLY | BY_HAND, {method.name for method in methods})
    copied = [method for method in methods if method.name not in ASYNCIO_ONLY | BY_HAND]
    body = "\n\n".join(text_of(method, lines) for method in copied)
    imports = "\n".join(imports_for(copied, tree))
    check_used("substitutions", SUBSTITUTIONS, {found for found in SUBSTITUTIONS if re.search(found, body)})
    for found, replacement in SUBSTITUTIONS.items():
        body = re.sub(found, replacement, body)
        imports = re.sub(found, replacement, imports)
    return formatted(f"{HEAD.format(imports=imports)}\n{body}\n")


def check_used(kind: str, listed: set[str] | dict[str, str], used: set[str]) -> None:
    """Fail for what this script lists and the source does not have: it was renamed there, or is gone."""
    if unused := sorted(set(listed) - used):
        raise SystemExit(f"{SOURCE.name} has none of these {kind}: {', '.join(unused)}")


def text_of(method: ast.AsyncFunctionDef, lines: list[str]) -> str:
    """A method as it is written, with its decorators and the comments that stand directly above it."""
    first = min([method.lineno, *(decorator.lineno for decorator in method.decorator_list)]) - 1
    above = first
    while not lines[above - 1].strip() or lines[above - 1].lstrip().startswith("#"):
        above -= 1
    return "\n".join(lines[above : method.end_lineno]).strip("\n")


def imports_for(methods: list[ast.AsyncFunctionDef], tree: ast.Module) -> list[str]:
    """The source's imports of what these methods name."""
    named = {node.id for method in methods for node in ast.walk(method) if isinstance(node, ast.Name)}
    return [
        f"from {node.module} import {alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in named
    ]


def formatted(text: str) -> str:
    """The same in the layout of the project; UP028 is `yield from`, which asynchronous generators don't have."""
    for command in ("check", "--quiet", "--fix", "--unsafe-fixes", "--select=I,UP028"), ("format", "--quiet"):
        done = subprocess.run(  # noqa: S603 - ruff, on text of ours
            [sys.executable, "-m", "ruff", *command, f"--stdin-filename={TARGET}", "-"],
            input=text,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        text = done.stdout
    return text


def main() -> None:
    """The command."""
    text = generate(SOURCE.read_text("utf-8"))
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, "utf-8")
        return
    old = TARGET.read_text("utf-8")
    if old != text:
        changes = difflib.unified_diff(old.splitlines(), text.splitlines(), "as it is", "generated", lineterm="")
        raise SystemExit("\n".join([f"{TARGET} is not current; run `make sync-front`", *changes]))


if __name__ == "__main__":
    main()
