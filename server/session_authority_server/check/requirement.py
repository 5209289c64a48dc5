from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeAlias

from session_authority_server.check.facts import Facts
from session_authority_server.domain.api_key import Permission

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


class Standard(Enum):
    """A published security standard whose requirements the check command evaluates."""

    ASVS = "OWASP ASVS 5.0"
    NIST = "NIST SP 800-63B-4"


class Verdict(Enum):
    """Whether an installation meets a requirement."""

    MET = "met"
    NOT_MET = "not_met"
    APP_DUTY = "app_duty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of the check for one requirement.

    Attributes:
        verdict: Whether the installation meets it.
        why: The reason for the verdict.
        duty: The part that the app or the machine's operator must do; may be empty.
        setting: The name of the setting that changes the verdict; may be empty.
        justified: Whether the requirement is not met, and the written justification covers the deviation.
    """

    verdict: Verdict
    why: str
    duty: str = ""
    setting: str = ""
    justified: bool = False


Judge: TypeAlias = Callable[[Facts], Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A requirement of a standard.

    Attributes:
        id: The section's number in the standard, with a word if the section has several requirements.
        standard: The standard.
        level: The lowest level that includes the requirement (ASVS level, or authenticator assurance level).
        shall: Whether it is a "shall". A written justification permits a deviation from a "should".
        text: The requirement in short.
        judge: The function that judges an installation's facts.
    """

    id: str
    standard: Standard
    level: int
    shall: bool = True
    text: str
    judge: Judge


@dataclass(frozen=True, slots=True)
class CheckWarning:
    """A problem that an operator should look at, although no standard covers it.

    Attributes:
        name: The kind of warning, for programs.
        about: The setting, file, key or other part that the warning concerns.
        why: The problem, or the risk.
        remedy: The action that solves the problem.
    """

    name: str
    about: str
    why: str
    remedy: str


def met(why: str, *, duty: str = "", setting: str = "") -> Finding:
    """Return a finding that the requirement is met."""
    return Finding(verdict=Verdict.MET, why=why, duty=duty, setting=setting)


def not_met(why: str, *, setting: str = "", justified: bool = False) -> Finding:
    """Return a finding that the requirement is not met."""
    return Finding(verdict=Verdict.NOT_MET, why=why, setting=setting, justified=justified)


def no_key_permits(facts: Facts, permission: Permission) -> Finding:
    """Return a finding that no active API key has the permission that the requirement needs."""
    if facts.contents is None:
        return not_met(
            f"The API keys could not be read to look for the permission `{permission.value}`"
        )
    return not_met(
        f"No active API key has the permission `{permission.value}`. Create one: "
        f"session-authority keys create NAME --permission {permission.value}"
    )


def limit_with_exceptions(limit: str, until: datetime) -> str:
    """Return a text about a limit that some live sessions exceed, at least until the given time."""
    return (
        f"{limit} for new sessions. Some live sessions keep an earlier, longer limit until at least "
        f"{until:%Y-%m-%d %H:%M} UTC. Wait, or end all sessions: session-authority revoke --all"
    )


def app_duty(why: str, duty: str, *, setting: str = "") -> Finding:
    """Return a finding that the app must meet the requirement, and how the authority helps."""
    return Finding(verdict=Verdict.APP_DUTY, why=why, duty=duty, setting=setting)


def always(finding: Finding) -> Judge:
    """Return a judge with the same finding for every installation."""
    return lambda _facts: finding


def span(length: timedelta) -> str:
    """Return a duration in the largest exact unit, such as "90 days" or "1 hour"."""
    seconds = int(length.total_seconds())
    for unit_seconds, name in _UNITS:
        if seconds % unit_seconds == 0 and seconds >= unit_seconds:
            count = seconds // unit_seconds
            return f"{count:,} {name}" + ("" if count == 1 else "s")
    return "no time"
