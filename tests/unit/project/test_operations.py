"""The alert rules and the page about them, held against the series that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.support.deployment import document

from api.metrics import Metrics as ApiMetrics
from shared.settings import Settings
from supervisor.metrics import Metrics as WorkerMetrics

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/dreamforge.json"
CASES = ROOT / "deploy/prometheus/alerts_test.yaml"
RULES: list[dict[str, Any]] = [
    rule for group in document(ALERTS)["groups"] for rule in group["rules"]
]
PROMTOOL = shutil.which("promtool")
_NAME = re.compile(r"\b(dreamforge_\w+)(?:\{([^}]*)\})?")
_OF_PROMETHEUS = {"instance", "job"}
_SERIES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}


def series() -> dict[str, set[str]]:
    """Every name that a query can use, with its labels."""
    found: dict[str, set[str]] = {}
    for registry in (ApiMetrics().registry, WorkerMetrics().registry):
        for collector in _collectors(registry):
            (family,) = collector.describe()
            for suffix in _SERIES[family.type]:
                labels = found.setdefault(family.name + suffix, set())
                labels.update(collector._labelnames, ("le",) if suffix == "_bucket" else ())
    return found


def _collectors(registry: CollectorRegistry) -> list[Any]:
    return list(registry._collector_to_names)


SERIES = series()


def check_query(query: str) -> list[tuple[str, str]]:
    """Fail where it asks for a series or a label that there is not; return what it asks for."""
    asked = _NAME.findall(query)
    for name, matchers in asked:
        assert name in SERIES, name
        assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= SERIES[name] | _OF_PROMETHEUS, name
    return asked


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_series_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    asked = check_query(rule["expr"])
    assert asked or rule["expr"].startswith("up{"), "it asks for nothing of ours"
    grouped = {
        label for by in re.findall(r"by \(([^)]+)\)", rule["expr"]) for label in by.split(", ")
    }
    known = set().union(*(SERIES[name] for name, _ in asked), _OF_PROMETHEUS)
    used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert grouped <= known and used <= known
    assert rule["expr"].count("(") == rule["expr"].count(")")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_urgent_it_is_and_the_page_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert f"| `{rule['alert']}` |" in PAGE


def test_the_dashboard_shows_series_and_labels_that_there_are() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel.get("targets", ()):
            asked = check_query(target["expr"])
            assert asked, panel["title"]
            known = set().union(*(SERIES[name] for name, _ in asked), _OF_PROMETHEUS)
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= known, panel["title"]


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(cells)[0] < 24


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [
        (case["alertname"], bool(case["exp_alerts"]))
        for test in document(CASES)["tests"]
        for case in test["alert_rule_test"]
    ]
    alerts = {rule["alert"] for rule in RULES}
    assert set(cases) == {(alert, fires) for alert in alerts for fires in (True, False)}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed here")
def test_the_cases_of_the_alerts_hold() -> None:
    assert PROMTOOL is not None
    command = [PROMTOOL, "test", "rules", CASES.name]
    done = subprocess.run(
        command, cwd=CASES.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_lists_every_series_and_no_other() -> None:
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in SERIES}
    written = set(re.findall(r"`(dreamforge_\w+)", PAGE))
    # A row may go on with endings: `dreamforge_memory_used_bytes`, `…_free_bytes`.
    written |= {f"dreamforge_memory{ending}" for ending in re.findall(r"`…(_\w+)`", PAGE)}
    assert written == families


def test_the_page_says_of_every_setting_when_to_touch_it() -> None:
    section = PAGE.partition("\n## Settings, and when to touch them\n")[2].partition("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`DF_(\w+)", table)) == {name.upper() for name in Settings.model_fields}


def test_log_lines_on_the_page_are_written_by_the_worker() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src/supervisor").rglob("*.py"))
    named = re.findall(r"log lines? `([^`]+)`", PAGE)
    assert named and [line for line in named if f'"{line}' not in source] == []
