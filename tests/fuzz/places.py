"""Where the inputs of a target are."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
FOUND: Final = Path(".fuzz")
"""What runs find, in the working directory: inputs that reach new branches, and those that fail."""


def corpus(target: str) -> Path:
    """The inputs in the tree: seeds, and what has failed before."""
    return _HERE / "corpus" / target


def dictionary(target: str) -> Path:
    """The tokens that are typical of a target's inputs, in libFuzzer's format."""
    return _HERE / "dictionary" / f"{target}.dict"


def tokens(target: str) -> tuple[bytes, ...]:
    """The tokens of the dictionary."""
    text = dictionary(target).read_text("utf-8")
    return tuple(ast.literal_eval(f"b{word}") for word in re.findall(r'^"(?:[^"\\]|\\.)*"$', text, re.MULTILINE))
