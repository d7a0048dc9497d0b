"""All inputs of the fuzzing corpus, without a fuzzer: seeds, and every input that has failed before."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import pytest

from fuzz.places import corpus, dictionary, tokens
from fuzz.targets import TARGETS

INPUTS = [(target, path) for target in TARGETS for path in sorted(corpus(target).iterdir())]
CORPUS_BYTES = 200_000


@pytest.mark.parametrize(("target", "path"), INPUTS, ids=[f"{target}-{path.name}" for target, path in INPUTS])
def test_an_input_that_was_found_before_is_read_or_refused(
    target: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    importlib.import_module(f"fuzz.targets.{target}").check(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_has_seeds_and_a_dictionary(target: str) -> None:
    assert [*corpus(target).iterdir()]
    assert tokens(target)
    assert dictionary(target).read_text().startswith("# ")


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for _, path in INPUTS) < CORPUS_BYTES
