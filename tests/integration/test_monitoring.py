"""The alerts and the dashboard, against a real Prometheus that reads a real server and worker."""

import json
import os

import pytest
from tools.reference.metrics import every_metric, exported_name

from tests.support.prometheus import (
    DASHBOARD,
    PROGRAM,
    ROOT,
    SHIPPED,
    alerts,
    metrics_in,
    panels,
    promtool,
)

pytestmark = pytest.mark.skipif(
    PROGRAM is None and "CI" not in os.environ, reason="Prometheus is not installed"
)


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    for check, file in (("config", "prometheus.yml"), ("rules", "rules.yml")):
        done = promtool("check", check, SHIPPED / file)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


def test_every_alert_has_a_summary_a_severity_and_a_section_of_the_documentation() -> None:
    sections = (ROOT / "docs" / "operate" / "monitor.md").read_text().splitlines()
    for alert in alerts():
        name = alert["alert"]
        assert alert["annotations"]["summary"].endswith("."), name
        assert alert["labels"]["severity"] in ("warning", "critical"), name
        assert alert["annotations"]["runbook_url"] == f"docs/operate/monitor.md#{name.lower()}"
        assert f"### {name}" in sections
    named = {line.removeprefix("### ") for line in sections if line.startswith("### ")}
    assert named == {alert["alert"] for alert in alerts()}


def test_alerts_and_panels_use_metrics_that_are_defined() -> None:
    defined = {
        name
        for metric in every_metric()
        for name in (
            exported_name(metric),
            *(f"{metric.name}_{part}" for part in ("bucket", "count", "sum")),
        )
    }
    used = metrics_in((SHIPPED / "rules.yml").read_text())
    used |= metrics_in(" ".join(query for panel in panels() for query in panel.queries))
    assert len(used) > 25
    assert used - defined == set()


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
