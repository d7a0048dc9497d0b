"""Names and labels of the metrics: bounded, and those that dashboard and alerts use exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callstate_client.engine.verbs.table import VERBS
from callstate_sidecar.histogram import Histogram
from callstate_sidecar.monitoring.catalogue import COUNTERS, GAUGES

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")

from prometheus_client import generate_latest  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402

from callstate_sidecar.monitoring.families import Snapshot, families  # noqa: E402

CONTRIB = Path(__file__).parents[4] / "contrib"
RULES = CONTRIB / "prometheus" / "callstate.rules.yml"
DASHBOARD = CONTRIB / "grafana" / "callstate.json"


def snapshot(**changed: Any) -> Snapshot:
    histogram = Histogram((0.1, 1.0))
    for duration_s in (0.05, 0.1, 0.5, 3.0):
        histogram.observe(duration_s)
    stats = dict.fromkeys(GAUGES, 0) | {
        "sessions": {},
        "store": "up",
        "journal": "ok",
        "requests": {},
        "errors": {},
    }
    return Snapshot(
        stats=stats | changed,
        suspected={},
        reaped={"poisoned": 2, "of another daemon": 1},
        lag=histogram,
        gc_pauses=histogram,
        durations={"session.save": histogram},
        limits={f"callstate_{name}_limit": 5 for name in ("sessions", "connections", "dirty_bytes")},
        info={"version": "1"},
    )


class Registry(Collector):
    def __init__(self, taken: Snapshot) -> None:
        self.taken = taken

    def collect(self) -> Iterator[Any]:
        return families(self.taken)


def text(taken: Snapshot) -> str:
    return generate_latest(Registry(taken)).decode()


def samples(taken: Snapshot) -> dict[tuple[str, ...], float]:
    """By name and values of labels."""
    found = [sample for family in text_string_to_metric_families(text(taken)) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in found}


def test_labels_are_bounded() -> None:
    found = samples(snapshot(sessions={"active": 2, "made up": 3, "too": 1}, errors={"conflict": 1, "new": 4}))
    assert found["callstate_sessions", "active"] == 2
    assert found["callstate_sessions", "on_hold"] == 0
    assert found["callstate_sessions", "other"] == 4
    assert found["callstate_errors_total", "conflict"] == 1
    assert found["callstate_errors_total", "other"] == 4
    assert found["callstate_reaped_total", "poisoned"] == 2
    assert found["callstate_reaped_total", "other"] == 1
    assert "made up" not in text(snapshot(sessions={"made up": 3}))


def test_buckets_are_cumulative_and_include_their_bound() -> None:
    found = samples(snapshot())
    name = "callstate_request_duration_seconds"
    buckets = {key[1:]: value for key, value in found.items() if key[0] == f"{name}_bucket"}
    by_bound = {next(label for label in key if label != "session.save"): value for key, value in buckets.items()}
    assert by_bound == {"0.1": 2, "1": 3, "+Inf": 4}
    assert found[f"{name}_count", "session.save"] == 4
    assert found[f"{name}_sum", "session.save"] == pytest.approx(3.65)


def test_counters_are_there_before_they_are_counted_and_new_ones_keep_their_names() -> None:
    found = samples(snapshot(checkpoints=7, invented=3))
    assert found["callstate_checkpoints_total",] == 7
    assert found["callstate_task_failures_total",] == 0
    assert found["callstate_invented_total",] == 3
    names = [named.name for named in [*GAUGES.values(), *COUNTERS.values()]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("state", ["up", "down", "refusing"])
def test_one_state_of_the_store_is_1(state: str) -> None:
    found = samples(snapshot(store=state, journal="failing"))
    assert {key[1]: value for key, value in found.items() if key[0] == "callstate_store_state"} == {
        "up": state == "up", "down": state == "down", "refusing": state == "refusing",
    }  # fmt: skip
    assert found["callstate_journal_up",] == 0


# -- what comes with it for Prometheus and Grafana ---------------------------------------------------------------


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [*targets, *(rule["expr"] for rule in alerts())]


def known() -> set[str]:
    taken = snapshot(requests=dict.fromkeys(VERBS, 1))
    return {key[0] for key in samples(taken)} | {"process_cpu_seconds_total", "process_resident_memory_bytes", "up"}


def test_every_metric_of_dashboard_and_alerts_exists() -> None:
    assert len(queries()) > 30
    for query in queries():
        names = set(re.findall(r"\b(?:callstate|process)_[a-z_]+\b", query))
        assert names or query.startswith("up{"), query
        assert names <= known(), query


def test_every_label_value_that_alerts_select_exists() -> None:
    exposed = text(snapshot())
    for query in queries():
        for label, values in re.findall(r'(kind|reason|state)=~?"([^"]+)"', query):
            for value in values.split("|"):
                assert f'{label}="{value}"' in exposed, query


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    assert len({rule["alert"] for rule in alerts()}) == len(alerts()) > 10
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "meaning", "remedy"}, rule["alert"]


@pytest.mark.system
def test_promtool_takes_the_rules_and_the_metrics() -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    rules = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert rules.returncode == 0, rules.stdout + rules.stderr
    metrics = subprocess.run(
        [promtool, "check", "metrics"], input=text(snapshot()), capture_output=True, text=True, check=False
    )
    assert metrics.returncode == 0, metrics.stdout + metrics.stderr


def test_every_metric_is_in_the_documentation_and_no_other() -> None:
    """By its base name, for a histogram or an info metric; by the name that Prometheus sees, for all others."""
    operations = (CONTRIB.parent / "docs" / "operations.md").read_text("utf-8")
    section = re.split(r"^## ", operations.partition("\n## Metrics\n")[2], flags=re.MULTILINE)[0]
    told = set(re.findall(r"`(callstate_[a-z_]+)(?:\{[a-z,]+\})?`", section)) - {"callstate_"}
    suffix = r"_(bucket|count|sum|created)$"
    seen = {re.sub(suffix, "", name) if "_seconds_" in name else name for name in known()}
    assert told == {name for name in seen if name.startswith("callstate_")}
