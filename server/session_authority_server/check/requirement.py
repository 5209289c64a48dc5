from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeAlias

from session_authority_server.check.facts import Facts
from session_authority_server.domain.api_key import Permission

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


class Standard(Enum):
    """A standard that requires something."""

    ASVS = "OWASP ASVS 5.0"
    NIST = "NIST SP 800-63B-4"


class Verdict(Enum):
    """Whether an installation meets a requirement."""

    MET = "met"
    NOT_MET = "not_met"
    APP_DUTY = "app_duty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the check found about one requirement.

    Attributes:
        verdict: Whether the installation meets it.
        why: The reason for the verdict.
        duty: What the app or the machine's operator must do; empty for nothing.
        setting: The name of the setting that changes the verdict; empty for none.
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
    """Something that a standard requires.

    Attributes:
        id: The standard's number, with a word if the number covers several things.
        standard: The standard.
        level: The lowest level that includes the requirement (ASVS level, or authenticator assurance level).
        shall: Whether it is a "shall". A written justification permits a deviation from a "should".
        text: The requirement in short.
        judge: Returns what an installation's facts say about it.
    """

    id: str
    standard: Standard
    level: int
    shall: bool = True
    text: str
    judge: Judge


@dataclass(frozen=True, slots=True)
class CheckWarning:
    """Something that no standard asks for and that an operator should look at.

    Attributes:
        name: The kind of warning, for programs.
        about: What the warning is about: a setting, a file, a key.
        why: What is wrong, or could become wrong.
        remedy: What to do.
    """

    name: str
    about: str
    why: str
    remedy: str


def met(why: str, *, duty: str = "", setting: str = "") -> Finding:
    """Return that a requirement is met."""
    return Finding(verdict=Verdict.MET, why=why, duty=duty, setting=setting)


def not_met(why: str, *, setting: str = "", justified: bool = False) -> Finding:
    """Return that a requirement is not met."""
    return Finding(verdict=Verdict.NOT_MET, why=why, setting=setting, justified=justified)


def no_key_permits(facts: Facts, permission: Permission) -> Finding:
    """Return that a requirement is not met, because no known API key has the permission that it needs."""
    if facts.contents is None:
        return not_met(f"Whether an API key permits `{permission.value}` could not be looked at")
    return not_met(
        f"No API key that is good permits `{permission.value}`; make a key that does: "
        f"session-authority keys create NAME --permission {permission.value}"
    )


def limit_with_exceptions(limit: str, until: datetime) -> str:
    """Return the text about sessions that began under a longer limit and live until a moment or longer."""
    return (
        f"{limit} for sessions that begin now; some that are live began under a longer limit and keep it, until "
        f"{until:%Y-%m-%d %H:%M} UTC at least: end all with session-authority revoke --all, or wait"
    )


def app_duty(why: str, duty: str, *, setting: str = "") -> Finding:
    """Return that the app must meet a requirement, and how the authority helps."""
    return Finding(verdict=Verdict.APP_DUTY, why=why, duty=duty, setting=setting)


def always(finding: Finding) -> Judge:
    """Return a judge with the same finding for every installation."""
    return lambda _facts: finding


def span(length: timedelta) -> str:
    """Return a length of time in the largest exact unit, such as "90 days" or "1 hour"."""
    seconds = int(length.total_seconds())
    for unit_seconds, name in _UNITS:
        if seconds % unit_seconds == 0 and seconds >= unit_seconds:
            count = seconds // unit_seconds
            return f"{count:,} {name}" + ("" if count == 1 else "s")
    return "no time"
