"""The exit status of a report, and its form for programs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from session_authority_server.check.facts import Facts
from session_authority_server.check.nist import JUSTIFICATION
from session_authority_server.check.report import (
    REQUIREMENTS,
    Demand,
    Status,
    as_json,
    assess,
)
from session_authority_server.domain.policy import Policy
from tests.unit.check.installation import DAY, EXPOSURE, POLICY, an_installation

DEFAULTS = an_installation(policy=Policy())


def status(facts: Facts, **demand: Any) -> Status:
    return assess(facts, Demand(**demand)).status


def test_an_installation_without_faults_passes_at_every_level() -> None:
    assert status(an_installation(), asvs_level=3, assurance_level=3, strict=True) is Status.GOOD


def test_the_default_is_the_lowest_levels_and_justifies_90_days() -> None:
    assert status(DEFAULTS) is Status.GOOD


@pytest.mark.parametrize(
    ("demand", "failing"),
    [
        ({"asvs_level": 2}, {"7.3.1", "7.5.2"}),
        ({"asvs_level": 3}, {"7.3.1", "7.5.2"}),
        ({"assurance_level": 2}, {"2.2.3-24-hours", "2.2.3-idle"}),
        (
            {"assurance_level": 3},
            {"2.2.3-24-hours", "2.2.3-idle", "2.3.3-12-hours", "2.3.3-idle"},
        ),
    ],
)
def test_higher_levels_require_more(demand: dict[str, Any], failing: set[str]) -> None:
    report = assess(DEFAULTS, Demand(**demand))
    assert {each.requirement.id for each in report.judged if each.fails} == failing
    assert report.status is Status.NOT_MET


def test_accepted_findings_do_not_count() -> None:
    assert status(DEFAULTS, asvs_level=2, accepted={"7.3.1"}) is Status.NOT_MET
    assert status(DEFAULTS, asvs_level=2, accepted={"7.3.1", "7.5.2"}) is Status.GOOD


def test_the_operator_must_justify_more_than_90_days() -> None:
    facts = an_installation(policy=replace(POLICY, absolute_lifetime=91 * DAY))
    assert status(facts) is Status.NOT_MET
    assert status(facts, accepted={"2.1.3-30-days"}) is Status.GOOD


def test_warnings_count_if_requested() -> None:
    facts = an_installation(audit_log="")
    assert status(facts) is Status.GOOD
    assert status(facts, strict=True) is Status.NOT_MET


def test_missing_facts_make_the_status_unknown() -> None:
    plaintext = replace(EXPOSURE, tls=False)
    for facts in (
        an_installation(contents=None),
        an_installation(contents=None, exposure=plaintext),
    ):
        assert status(facts) is Status.NOT_CHECKED


def test_each_status_is_its_exit_code() -> None:
    assert [each.value for each in Status] == [0, 1, 2]


def test_the_json_form_is_stable() -> None:
    facts = an_installation(audit_log="", policy=Policy())
    demand = Demand(asvs_level=2, assurance_level=1, accepted={"7.3.1"})
    said = json.loads(json.dumps(as_json(assess(facts, demand), demand, "postgresql://db/x")))

    assert {name: type(value) for name, value in said.items()} == {
        "format": int,
        "time": str,
        "database": str,
        "asvs_level": int,
        "assurance_level": int,
        "status": int,
        "requirements": list,
        "warnings": list,
        "justification": str,
    }
    assert said["format"] == 1
    assert [each["id"] for each in said["requirements"]] == [each.id for each in REQUIREMENTS]
    for each in said["requirements"]:
        assert {name: type(value) for name, value in each.items() if name != "setting"} == {
            "standard": str,
            "id": str,
            "level": int,
            "must": bool,
            "required": bool,
            "accepted": bool,
            "text": str,
            "verdict": str,
            "justified": bool,
            "why": str,
            "duty": str,
        }
        assert each["verdict"] in {"met", "not_met", "app_duty"}
        assert each["setting"] is None or each["setting"].startswith("SESSION_AUTHORITY_")
    by_id = {each["id"]: each for each in said["requirements"]}
    assert by_id["7.3.1"] == {
        "standard": "OWASP ASVS 5.0",
        "id": "7.3.1",
        "level": 2,
        "must": True,
        "required": False,
        "accepted": True,
        "text": "Inactivity ends a session",
        "verdict": "not_met",
        "justified": False,
        "why": "There is no idle timeout",
        "duty": "",
        "setting": "SESSION_AUTHORITY_IDLE_TIMEOUT_SECONDS",
    }
    assert by_id["2.1.3-30-days"]["justified"]
    assert not by_id["2.1.3-30-days"]["must"]
    assert said["warnings"] == [
        {
            "name": "no-audit-log",
            "about": "SESSION_AUTHORITY_AUDIT_LOG",
            "why": "no audit log is written",
            "remedy": "set it to a file's path, or to - for standard output",
        }
    ]


def test_the_justification_that_is_printed_is_the_documented_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "understand" / "security.md").read_text()
    assert JUSTIFICATION in re.sub(r"\s+", " ", text)
