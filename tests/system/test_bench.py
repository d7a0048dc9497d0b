"""The benchmark runs from end to end. Its figures are not judged here: so little measured says nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRA = ("glide", "matplotlib")
RATIO = re.compile(r"^\S.* [\d.]+(?:x| m?s| kB)(?: \(.* … .*\))? +[<>]= [\d.]+(?:x| m?s| kB) +(?:met|NOT MET)\b")

PLOTS = {"throughput", "latency", "growth", "loads", "dying"}

pytestmark = pytest.mark.system


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where runs put what is temporary: short, for there are sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="cs-"))
    path.chmod(0o755)  # for the attackers, which are another user
    yield path
    shutil.rmtree(path)


def bench(*args: str | Path, temporary: Path) -> str:
    """What a run prints; it must leave nothing behind where temporary files go."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", *args],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(temporary.iterdir())
    return done.stdout


@pytest.mark.timeout(240)
def test_every_target_gets_its_line_and_its_figure(tmp_path: Path, temporary: Path) -> None:
    file = tmp_path / "figures.json"
    lines = bench("quick", "--tiny", "--json", file, temporary=temporary).splitlines()
    assert [line for line in lines[:-1] if not RATIO.match(line)] == []
    told = json.loads(file.read_text())
    assert len(told["targets"]) == len(lines) - 1 == 30
    assert all(target["low"] <= target["median"] <= target["high"] for target in told["targets"])
    for target, line in zip(told["targets"], lines, strict=False):
        reached = target["median"] >= target["limit"] if target["at_least"] else target["median"] <= target["limit"]
        assert reached == target["met"] == ("NOT MET" not in line)


@pytest.mark.timeout(240)
def test_both_sides_are_measured_in_every_comparison(tmp_path: Path, temporary: Path) -> None:
    file = tmp_path / "figures.json"
    bench("quick", "--tiny", "--only", "add_turn", "load", "--json", file, temporary=temporary)
    cells = json.loads(file.read_text())["comparisons"]
    asked = {(cell["operation"], cell["turns"], cell["tasks"]) for cell in cells}
    assert asked >= {("add_turn", 20, 32), ("add_turn", 200, 32), ("load", 20, 1), ("load", 200, 32)}
    for cell in cells:
        ours, theirs = cell["sides"]["callstate"], cell["sides"]["redis-py RedisStore"]
        assert ours["requests"] > 0 < theirs["requests"]
        assert ours["p50_us"] <= ours["p99_us"]
        low, high = theirs["throughput_ratio"][1:]
        rate, other = ours["throughput_per_s"], theirs["throughput_per_s"]
        assert rate[1] / other[2] <= high * 1.01
        assert low <= rate[2] / other[1] * 1.01


@pytest.mark.timeout(240)
def test_attacks_are_measured_before_and_after_and_get_their_rows(tmp_path: Path, temporary: Path) -> None:
    """Both sides are this checkout here; figures of an earlier run stay."""
    document, file = tmp_path / "performance.md", tmp_path / "figures.json"
    document.write_text((ROOT / "docs" / "performance.md").read_text())
    file.write_text('{"earlier": 1}')
    words = ("--only", "junk lines", "idle connections", "--against", ROOT, "--json", file, "--docs", tmp_path)
    bench("hostile", "--tiny", *words, temporary=temporary)
    told = json.loads(file.read_text())
    assert told["earlier"] == 1
    assert told["hostile"].keys() == {"junk lines as fast as it can", "2,000 idle connections"}
    for sides in told["hostile"].values():
        assert sides.keys() == {"before", "after"}
        for side in sides.values():
            assert 0 < side["p50_ms"] <= side["p99_ms"] <= side["longest_ms"]
            assert side["rss_peak_mib"] >= side["rss_before_mib"] > 0
            assert side["longest_turn_ms"] > 0
            assert not any("failed" in outcome for outcome in side["outcome"])
    assert told["hostile"]["junk lines as fast as it can"]["after"]["outcome"]["parse_error"] > 100
    rows = [line for line in document.read_text().splitlines() if line.startswith("| junk lines as fast")]
    assert len(rows) == 1
    assert rows[0].endswith("`parse_error` |")


def test_growth_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.hostile.verbs import LINEAR, exponent

    sizes = [1000, 2000, 4000, 8000]
    assert exponent(sizes, [0.01, 0.02, 0.04, 0.08]) == pytest.approx(1.0)
    assert exponent(sizes, [0.01, 0.04, 0.16, 0.64]) == pytest.approx(2.0)
    assert 1.0 < LINEAR < 2.0
    assert exponent(sizes, [1e-6, 9e-6, 8e-5, 7e-4]) == 0.0  # too little to say


@pytest.mark.skipif(not all(map(find_spec, EXTRA)), reason="needs the `bench` extra, which `make bench` installs")
@pytest.mark.timeout(240)
def test_a_full_run_fills_tables_and_draws_small_plots(tmp_path: Path, temporary: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text((ROOT / "docs" / "performance.md").read_text())
    file = tmp_path / "figures.json"
    bench("full", "--tiny", "--json", file, "--docs", tmp_path, temporary=temporary)
    text = document.read_text()
    assert text.count("<!-- figures:") == text.count("<!-- end -->") == len(re.findall(r"-->\n[^<]+<!-- end", text))
    plots = {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
    assert set(plots) >= set(re.findall(r"\((performance-\w+\.svg)\)", text))
    assert {path.removeprefix("performance-").removesuffix(".svg") for path in plots} == PLOTS
    assert all(len(plot) < 100_000 for plot in plots.values())
    told = json.loads(file.read_text())
    assert told["growth"].keys() == {"heartbeat", "add_turn", "load", "save"}
    assert told["loads"].keys() == {"idle", "flush", "checkpoint", "many", "expiry"}
    for scene in told["dying"].values():
        assert scene["kills"] > 0
        for figures in (scene["exit"], scene["suspect"], scene["claimed"]):
            assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["longest_ms"]
        ends, events = scene["exit"]["quantiles_ms"], scene["suspect"]["quantiles_ms"]
        assert all(end <= event for end, event in zip(ends, events, strict=True)), "told of before it died"
