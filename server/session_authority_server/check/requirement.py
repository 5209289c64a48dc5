from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeAlias

from session_authority_server.check.facts import Facts
from session_authority_server.domain.api_key import Permission

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


class Standard(Enum):
    """Who requires something."""

    ASVS = "OWASP ASVS 5.0"
    NIST = "NIST SP 800-63B-4"


class Verdict(Enum):
    """How an installation stands to a requirement."""

    MET = "met"
    NOT_MET = "not_met"
    APP_DUTY = "app_duty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one requirement.

    Attributes:
        verdict: How the installation stands to it.
        why: What that rests on.
        duty: What is left to the app, or to whoever runs the machine; empty where nothing is.
        setting: The name of the setting that changes the verdict; empty where none does.
        justified: Whether it is not met, may be deviated from, and our written justification covers it.
    """

    verdict: Verdict
    why: str
    duty: str = ""
    setting: str = ""
    justified: bool = False


Judge: TypeAlias = Callable[[Facts], Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """Something that a standard asks for.

    Attributes:
        id: What it is called: the standard's own number, and a word where that covers several things.
        standard: Which standard.
        level: From which level of it on (ASVS level, or authenticator assurance level).
        shall: Whether it is a must; a "should" may be deviated from, with a written justification.
        text: What is asked for, in short.
        judge: Finds out how an installation stands to it.
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


def nobody_may(facts: Facts, permission: Permission) -> Finding:
    """Return that a requirement is not met, because nobody may do what it takes, as far as is known."""
    if facts.contents is None:
        return not_met(f"Whether an API key permits `{permission.value}` could not be looked at")
    return not_met(
        f"No API key that is good permits `{permission.value}`; make a key that does: "
        f"session-authority keys create NAME --permission {permission.value}"
    )


def outlived(limit: str, until: datetime) -> str:
    """Say of a limit that sessions began before it was one, and may live until a moment or longer."""
    return (
        f"{limit} for sessions that begin now; some that are live began under a longer limit and keep it, until "
        f"{until:%Y-%m-%d %H:%M} UTC at least: end all with session-authority revoke --all, or wait"
    )


def app_duty(why: str, duty: str, *, setting: str = "") -> Finding:
    """Return that the app must meet a requirement, and what the authority has for it."""
    return Finding(verdict=Verdict.APP_DUTY, why=why, duty=duty, setting=setting)


def always(finding: Finding) -> Judge:
    """Return what judges every installation alike: what depends on the program alone, or on the app."""
    return lambda _facts: finding


def span(length: timedelta) -> str:
    """Return how long something is, in the largest unit that says it exactly: "90 days", "1 hour"."""
    seconds = int(length.total_seconds())
    for unit_seconds, name in _UNITS:
        if seconds % unit_seconds == 0 and seconds >= unit_seconds:
            count = seconds // unit_seconds
            return f"{count:,} {name}" + ("" if count == 1 else "s")
    return "no time"
