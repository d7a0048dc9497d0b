"""The picture in the README is that of the recorded run, and moves as it did."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "demo_picture.py"
SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_is_that_of_the_recording() -> None:
    assert subprocess.run([sys.executable, str(SCRIPT), "--check"], check=False).returncode == 0


def test_each_line_appears_when_it_was_printed() -> None:
    picture = (ROOT / "docs" / "pictures" / "demo.svg").read_text("utf-8")
    rows = ["".join(row.itertext()) for row in ElementTree.fromstring(picture).iter(f"{SVG}text")]  # noqa: S314
    assert rows[0] == "$ make demo"
    assert rows[-1].startswith("nothing is missing")
    shown = [float(at) for at in re.findall(r"@keyframes l\d+\{0%,([\d.]+)%\{opacity:0\}", picture)]
    assert len(shown) == len(rows)
    assert shown == sorted(shown)
    assert shown[0] > 0
    assert shown[-1] < 100


def test_nothing_in_it_comes_from_elsewhere() -> None:
    picture = (ROOT / "docs" / "pictures" / "demo.svg").read_text("utf-8")
    assert re.findall(r"https?://[^\s\"]+", picture) == ["http://www.w3.org/2000/svg"]
    assert "<script" not in picture
