"""The alerts and the dashboard, against a real Prometheus that reads a real server and worker."""

import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from html import escape

import pytest
from tools.dashboard import DASHBOARD, Source, panels, picture
from tools.reference.metrics import every_gateway_metric, every_metric, exported_name

from tests.support.monitored import SERVER, WORKER, Scene, in_use, monitored
from tests.support.program import Program
from tests.support.prometheus import (
    PROGRAM,
    ROOT,
    SHIPPED,
    alerts,
    metrics_in,
    promtool,
    scaled_rules,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(
    PROGRAM is None and "CI" not in os.environ, reason="Prometheus is not installed"
)


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    for command in (
        ("check", "config", SHIPPED / "prometheus.yml"),
        ("check", "rules", SHIPPED / "rules.yml"),
        ("test", "rules", SHIPPED / "rules_test.yml"),
    ):
        done = promtool(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


def test_every_alert_has_a_summary_a_severity_and_a_section_of_the_documentation() -> None:
    tested = re.findall(r'alertname="(\w+)"', (SHIPPED / "rules_test.yml").read_text())
    sections = (ROOT / "docs" / "operate" / "monitor.md").read_text().splitlines()
    for alert in alerts():
        name = alert["alert"]
        assert alert["annotations"]["summary"].endswith("."), name
        assert alert["labels"]["severity"] in ("warning", "critical"), name
        assert alert["annotations"]["runbook_url"] == f"docs/operate/monitor.md#{name.lower()}"
        assert f"### {name}" in sections
        assert name in tested, "rules_test.yml has no test of it"
    named = {line.removeprefix("### ") for line in sections if line.startswith("### ")}
    assert named == {alert["alert"] for alert in alerts()}


def test_alerts_and_panels_use_metrics_that_are_defined() -> None:
    defined = {
        name
        for metric in (*every_metric(), *every_gateway_metric())
        for name in (
            exported_name(metric),
            *(f"{metric.name}_{part}" for part in ("bucket", "count", "sum")),
        )
    }
    used = metrics_in((SHIPPED / "rules.yml").read_text())
    used |= metrics_in(DASHBOARD.read_text())
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


NAMES = "label/__name__/values"
FASTER = 30


class Monitored:
    """The scene, and its worker."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._running: AbstractContextManager[Program] | None = None

    def start_worker(self) -> None:
        self._running = self.scene.start_worker()
        self._running.__enter__()

    def stop_worker(self) -> None:
        assert self._running is not None
        self._running.__exit__(None, None, None)

    def firing(self) -> set[str]:
        """Return the alerts that fire, without the prefix of their names."""
        return {each.removeprefix("SessionAuthority") for each in self.scene.prometheus.firing()}


@pytest.fixture(scope="module")
def monitored_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("monitoring")
    with monitored(folder, rules=scaled_rules(FASTER), interval="500ms") as scene:
        made = Monitored(scene)
        made.start_worker()
        wait_until(lambda: scene.prometheus.up() == {SERVER, WORKER})
        yield made
        made.stop_worker()
        assert "Traceback" not in scene.server.stderr


def test_an_outage_lost_endings_a_stopped_worker_and_an_expired_certificate_fire_alerts_and_clear(
    monitored_scene: Monitored,
) -> None:
    scene = monitored_scene.scene
    wait_until(lambda: monitored_scene.firing() == set())

    scene.cluster.stop(at_once=True)
    wait_until(lambda: monitored_scene.firing() == {"DatabaseFailing"})
    scene.cluster.start()
    wait_until(lambda: monitored_scene.firing() == set())

    scene.lose_endings()
    wait_until(lambda: monitored_scene.firing() == {"EndingsLost"})
    scene.accept_loss()
    wait_until(lambda: monitored_scene.firing() == set())

    monitored_scene.stop_worker()
    wait_until(lambda: monitored_scene.firing() == {"Down", "WorkerStopped"})
    for alert in scene.prometheus.ask("alerts")["alerts"]:
        assert "{{" not in alert["annotations"]["summary"]
        assert "error" not in alert["annotations"]["summary"]
    monitored_scene.start_worker()
    wait_until(lambda: monitored_scene.firing() == set())

    scene.replace_certificate(scene.authority.pair(expired=True))
    wait_until(lambda: monitored_scene.firing() == {"CertificateExpired"})
    scene.replace_certificate(scene.authority.pair(days=3))
    wait_until(lambda: monitored_scene.firing() == {"CertificateExpiresSoon"})
    scene.replace_certificate(scene.authority.pair(days=30))
    wait_until(lambda: monitored_scene.firing() == set())


def test_every_metric_is_exported_and_every_query_of_the_dashboard_has_data(
    monitored_scene: Monitored,
) -> None:
    scene = monitored_scene.scene
    for job in (SERVER, WORKER):
        done = promtool("check", "metrics", said=scene.page(job))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with in_use(scene):
        for panel in panels("5s"):
            for query, _ in panel.queries:
                wait_until(partial(_has_numbers, scene, query))
        # A new receiver gets its first event after some seconds.
        wait_until(lambda: _not_exported(scene) == set())
        now = time.time()
        drawn = picture(Source(scene.prometheus.url, now - 10, now), "5s")
    assert all(escape(panel.title) in drawn for panel in panels("5s"))
    assert "No data" not in drawn
    assert not any(name.endswith("_created") for name in scene.prometheus.ask(NAMES))


def _not_exported(scene: Scene) -> set[str]:
    exported = set(scene.prometheus.ask(NAMES))
    names = {exported_name(metric) for metric in every_metric()}
    return {name for name in names if not {name, f"{name}_bucket"} & exported}


def _has_numbers(scene: Scene, query: str) -> bool:
    found = scene.prometheus.query(query)
    return any(math.isfinite(float(each["value"][1])) for each in found)
