"""The files of deploy/ and .github/, judged by the programs that read them or by their schemas."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from session_authority_gateway.settings import GATEWAY_PREFIX, GatewaySettings
from session_authority_server.config import ENV_PREFIX, Settings
from tests.support.code_blocks import ROOT
from tests.support.program import COMMAND, environment, run

DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".venv-dist" / "bin"
MANIFESTS = DEPLOY / "kubernetes"
UNITS = DEPLOY / "systemd"
INSTALLED = "/opt/session-authority/bin/session-authority"
EXPOSURE_LIMIT = 2.0


def check(*command: str | Path, **variables: str) -> str:
    """Run a program that must succeed, and return its output."""
    name = str(command[0])
    # Debian has no package of a usable kubectl, so CI's machine may lack it.
    if shutil.which(name) is None and (name == "kubectl" or not os.environ.get("CI")):
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_containerfile_passes_hadolint() -> None:
    check(TOOLS / "hadolint", DEPLOY / "Containerfile")


def test_the_image_has_the_tested_versions() -> None:
    locks = [(folder / "requirements.lock").read_text() for folder in (DEPLOY, ROOT)]
    servers, all_tested = (set(re.findall(r"^\S+==\S+", lock, re.MULTILINE)) for lock in locks)
    assert servers
    assert servers <= all_tested


def test_no_installed_file_belongs_to_two_packages() -> None:
    owners: dict[str, set[str]] = {}
    for package in distributions():
        name = package.name
        for line in (package.read_text("RECORD") or "").splitlines():
            owners.setdefault(line.split(",")[0], set()).add(name)
    assert len(owners) > 1_000
    # The package that is installed last would damage the other one.
    assert [path for path, names in owners.items() if len(names) > 1] == []


def test_the_workflows_pass_actionlint() -> None:
    workflows = sorted((ROOT / ".github" / "workflows").iterdir())
    check(TOOLS / "actionlint", *workflows)
    check(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    used = [use for each in workflows for use in re.findall(r"uses: (\S+)", each.read_text())]
    assert used
    assert all(re.search(r"@v\d", each) for each in used), used


def test_ci_tests_every_python_that_the_package_names() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == named


def test_the_compose_file_is_valid_and_mounts_files_that_exist() -> None:
    file = DEPLOY / "compose.yaml"
    check(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    compose = yaml.safe_load(file.read_text())
    for name, service in compose["services"].items():
        for each in service.get("volumes", ()):
            source = each.partition(":")[0]
            exists = (
                (DEPLOY / source).exists() if source[0] == "." else source in compose["volumes"]
            )
            assert exists, f"{name}: {source}"
        assert set(service.get("depends_on", ())) <= compose["services"].keys()
        if "localhost/session-authority" in service["image"]:
            check_settings(service["environment"])
            check_command(service["command"])


@pytest.mark.parametrize("unit", sorted(each.name for each in UNITS.glob("*.service")))
def test_a_unit_is_valid_and_exposes_little(unit: str, tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "systemd" / "system"
    shutil.copytree(UNITS, folder)
    file = folder / unit
    text = file.read_text()
    (command,) = re.findall(r"^ExecStart=(\S+) (.+)$", text, re.MULTILINE)
    assert command[0] == INSTALLED
    check_command(command[1].split())
    # `verify` wants a program that exists.
    file.write_text(text.replace(INSTALLED, str(COMMAND)))
    assert check("systemd-analyze", "verify", file, SYSTEMD_UNIT_PATH=f"{folder}:") == ""
    said = check(
        "systemd-analyze", "security", "--offline=yes", "--no-pager", f"--root={tmp_path}", unit
    )
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert exposure is not None, said
    assert float(exposure[1]) <= EXPOSURE_LIMIT


def test_the_units_set_only_settings() -> None:
    for file in UNITS.rglob("*.*"):
        if file.is_file():
            given = re.findall(r"^Environment=(\w+)=(\S+)$", file.read_text(), re.MULTILINE)
            check_settings(dict(given))


def test_the_manifests_are_valid(tmp_path: Path) -> None:
    whole = tmp_path / "all.yaml"
    whole.write_text(check("kubectl", "kustomize", MANIFESTS))
    check(TOOLS / "kubernetes-validate", "--strict", whole)
    documents = list(yaml.safe_load_all(whole.read_text()))
    pods = [each["spec"]["template"] for each in documents if "template" in each.get("spec", {})]
    assert len(pods) == 3
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["image"] == f"registry.example.com/session-authority:{version}"
        check_command(container["args"])
        check_settings({each["name"]: each.get("value", "?") for each in container["env"]})
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        check_probes(container)
        volumes = {each["name"] for each in pod["spec"].get("volumes", ())} | {"state"}
        assert {each["name"] for each in container.get("volumeMounts", ())} <= volumes
    check_selectors(documents)


def check_probes(container: dict[str, Any]) -> None:
    """Check that Kubernetes restarts no server because it is not serving, which a restart does not mend."""
    probes = {kind: probe for kind, probe in container.items() if kind.endswith("Probe")}
    asking = [kind for kind, probe in probes.items() if "health" in str(probe)]
    if "serve" in container["args"]:
        assert probes.keys() == {"startupProbe", "livenessProbe", "readinessProbe"}
        assert asking == ["readinessProbe"]
    else:
        assert asking == []


def check_selectors(documents: list[dict[str, Any]]) -> None:
    """Check that the Service and the PodDisruptionBudget select the servers, and only them."""
    by_kind = {each["kind"]: each for each in documents}
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"].items()
        for each in documents
        if "template" in each.get("spec", {})
    }
    service = by_kind["Service"]["spec"]["selector"]
    budget = by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    for selector in (service, budget):
        assert [name for name, has in pods.items() if selector.items() <= has] == [
            "session-authority"
        ]
    assert by_kind["StatefulSet"]["spec"]["serviceName"] == by_kind["Service"]["metadata"]["name"]


def check_settings(given: dict[str, str]) -> None:
    """Check that variables are settings, whose names a command would otherwise ignore or refuse."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{GATEWAY_PREFIX}{name.upper()}" for name in GatewaySettings.model_fields}
    known |= {f"{ENV_PREFIX}CONFIG", f"{ENV_PREFIX}TLS_CLIENT_CERTIFICATE"}
    assert given.keys() <= known, given.keys() - known


def check_command(arguments: list[str]) -> None:
    """Check that a command has these options, without running it."""
    done = run(*arguments, "--help", cwd=ROOT)
    assert done.returncode == 0, done.stdout
    for each in arguments[1:]:
        assert each in done.stdout, f"{each} is no option of {arguments[0]}"
