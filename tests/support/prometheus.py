"""Prometheus for tests, and the rules and the dashboard that the product ships."""

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.postgresql import free_port

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "deploy" / "prometheus"
PROGRAM = shutil.which("prometheus")
START_SECONDS = 60


def promtool(*arguments: str | Path, said: str = "") -> "subprocess.CompletedProcess[str]":
    """Run promtool and return its exit code and output."""
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(
        command, input=said, capture_output=True, text=True, timeout=60, check=False
    )


def alerts() -> Sequence[Mapping[str, Any]]:
    """Return the alerts that the product ships."""
    rules = yaml.safe_load((SHIPPED / "rules.yml").read_text())
    found: Sequence[Mapping[str, Any]] = [
        rule for group in rules["groups"] for rule in group["rules"]
    ]
    return found


def metrics_in(queries: str) -> set[str]:
    """Return the names of the product's metrics in some queries."""
    return set(re.findall(r"session_authority_\w+", queries))


def scaled_rules(by: int) -> str:
    """Return the shipped rules with every duration divided, so that a test need not wait for minutes."""

    def shorter(found: re.Match[str]) -> str:
        seconds = int(found[2]) * {"s": 1, "m": 60, "h": 3_600}[found[3]] / by
        return f"{found[1]}{max(int(seconds * 1_000), 1)}ms"

    text = (SHIPPED / "rules.yml").read_text()
    return re.sub(r"(\[|for: )(\d+)([smh])\b", shorter, text)


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the answer of the HTTP API."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, query: str) -> Sequence[Mapping[str, Any]]:
        """Return the series of an instant query."""
        found: Sequence[Mapping[str, Any]] = self.ask("query", query=query)["result"]
        return found

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {
            each["labels"]["alertname"]
            for each in self.ask("alerts")["alerts"]
            if each["state"] == "firing"
        }

    def up(self) -> set[str]:
        """Return the jobs whose targets can be reached."""
        return {each["metric"]["job"] for each in self.query("up == 1")}


@contextlib.contextmanager
def running_prometheus(
    folder: Path, jobs: Mapping[str, str], *, rules: str, interval: str
) -> Iterator[Prometheus]:
    """Run the shipped configuration with other addresses, rules and intervals.

    Args:
        folder: Where to keep the data.
        jobs: The address of each job of the shipped configuration.
        rules: The rules.
        interval: The time between two scrapes, and between two evaluations.
    """
    assert PROGRAM is not None
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    for each in config["scrape_configs"]:
        each["static_configs"] = [{"targets": [jobs[each["job_name"]]]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules.yml").write_text(rules)
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROGRAM,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stderr=log,
        )
    try:
        made = Prometheus(port)
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                made.ask("status/buildinfo")
                break
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield made
    finally:
        process.terminate()
        process.wait(START_SECONDS)
