from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from session_authority_server.check import asvs, nist
from session_authority_server.check.facts import Facts
from session_authority_server.check.nist import JUSTIFICATION
from session_authority_server.check.requirement import (
    CheckWarning,
    Finding,
    Requirement,
    Standard,
    Verdict,
)
from session_authority_server.check.warnings import WARNINGS
from session_authority_server.config import ENV_PREFIX

REQUIREMENTS: Sequence[Requirement] = (*asvs.REQUIREMENTS, *nist.REQUIREMENTS)
# Increment it when a field of the JSON report changes its meaning, not when a field is added.
FORMAT = 1


class Status(IntEnum):
    """The exit status of the check."""

    GOOD = 0
    NOT_MET = 1
    NOT_CHECKED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The requirements that an operator chooses for an installation.

    Attributes:
        asvs_level: The highest level of ASVS that counts.
        assurance_level: The highest authenticator assurance level of NIST SP 800-63B-4 that counts.
        accepted: The ids of requirements that the operator does not meet, for a reason written elsewhere.
        strict: Whether warnings count too.
    """

    asvs_level: int = 1
    assurance_level: int = 1
    accepted: Collection[str] = ()
    strict: bool = False

    def includes(self, requirement: Requirement) -> bool:
        """Return whether a requirement must be met."""
        if requirement.id in self.accepted:
            return False
        is_asvs = requirement.standard is Standard.ASVS
        return requirement.level <= (self.asvs_level if is_asvs else self.assurance_level)


@dataclass(frozen=True, slots=True)
class JudgedRequirement:
    """A requirement with its finding, and whether the operator requires it."""

    requirement: Requirement
    finding: Finding
    is_required: bool

    @property
    def fails(self) -> bool:
        """Whether the requirement must be met and is not."""
        return (
            self.is_required
            and self.finding.verdict is Verdict.NOT_MET
            and not self.finding.justified
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a check.

    Attributes:
        time: When the facts were gathered.
        judged: Every requirement, in the standards' order.
        warnings: Problems that no standard covers.
        status: The overall result.
    """

    time: datetime
    judged: Sequence[JudgedRequirement]
    warnings: Sequence[CheckWarning]
    status: Status


def assess(facts: Facts, demand: Demand) -> Report:
    """Judge an installation by its facts."""
    judged = [
        JudgedRequirement(requirement, requirement.judge(facts), demand.includes(requirement))
        for requirement in REQUIREMENTS
    ]
    warnings = [warning for judge in WARNINGS for warning in judge(facts)]
    if facts.contents is None:
        status = Status.NOT_CHECKED
    elif any(each.fails for each in judged) or (demand.strict and warnings):
        status = Status.NOT_MET
    else:
        status = Status.GOOD
    return Report(time=facts.now, judged=judged, warnings=warnings, status=status)


def as_json(report: Report, demand: Demand, database: str) -> dict[str, Any]:
    """Return the report as a JSON object, for programs."""
    return {
        "format": FORMAT,
        "time": report.time.isoformat(),
        "database": database,
        "asvs_level": demand.asvs_level,
        "assurance_level": demand.assurance_level,
        "status": report.status.value,
        "requirements": [_judged_as_json(each, demand) for each in report.judged],
        "warnings": [
            {
                "name": warning.name,
                "about": warning.about,
                "why": warning.why,
                "remedy": warning.remedy,
            }
            for warning in report.warnings
        ],
        "justification": JUSTIFICATION,
    }


def _judged_as_json(judged: JudgedRequirement, demand: Demand) -> dict[str, Any]:
    requirement, finding = judged.requirement, judged.finding
    return {
        "standard": requirement.standard.value,
        "id": requirement.id,
        "level": requirement.level,
        "must": requirement.shall,
        "required": judged.is_required,
        "accepted": requirement.id in demand.accepted,
        "text": requirement.text,
        "verdict": finding.verdict.value,
        "justified": finding.justified,
        "why": finding.why,
        "duty": finding.duty,
        "setting": ENV_PREFIX + finding.setting.upper() if finding.setting else None,
    }
