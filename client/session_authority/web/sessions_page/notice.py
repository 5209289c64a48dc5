"""Carry a message about a completed action over the redirect after a form.

The server keeps no state for the message. The redirect's URL names the outcome and the device, with an
HMAC. The HMAC is bound to the session and valid for a minute, so attackers can't forge a link with a message.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from session_authority.web.sessions_page.forgery import is_sealed, seal
from session_authority.web.sessions_page.language import Language

NOTICE_LIFETIME = timedelta(minutes=1)
NOTICE_FIELDS = ("notice", "device", "until", "seal")


class Outcome(StrEnum):
    """The result of a form."""

    LOGGED_OUT = "logged-out"
    ALREADY_LOGGED_OUT = "already-logged-out"
    LOGGED_OUT_ELSEWHERE = "logged-out-elsewhere"
    NAMED = "named"
    NAME_REMOVED = "name-removed"


@dataclass(frozen=True, slots=True)
class Notice:
    """A message about a completed action.

    Attributes:
        outcome: The outcome of the form.
        device: The name of the device that was logged out; empty if there were several or none.
    """

    outcome: Outcome
    device: str = ""

    def fields(self, token: str, now: datetime) -> dict[str, str]:
        """Return the query fields that carry the message to the next request of this session."""
        until = str(int((now + NOTICE_LIFETIME).timestamp()))
        sealed = seal(token, "notice", self._content(until))
        return dict(zip(NOTICE_FIELDS, (self.outcome, self.device, until, sealed), strict=True))

    @classmethod
    def of_query(cls, query: Mapping[str, str], token: str, now: datetime) -> Self | None:
        """Return the message in a query, or None if it is forged or expired."""
        until = query.get("until", "")
        try:
            notice = cls(Outcome(query.get("notice", "")), query.get("device", ""))
            is_current = now.timestamp() < int(until)
        except ValueError:
            return None
        genuine = is_sealed(token, "notice", notice._content(until), query.get("seal", ""))
        return notice if genuine and is_current else None

    def text(self, language: Language, effective_within_seconds: int) -> str:
        """Return the message in a language."""
        _ = language.gettext
        match self.outcome:
            case Outcome.NAMED:
                return _("The name was saved.")
            case Outcome.NAME_REMOVED:
                return _("The name was removed.")
            case Outcome.ALREADY_LOGGED_OUT:
                return _("%(device)s was already logged out.", device=self.device)
            case Outcome.LOGGED_OUT:
                done = _("%(device)s was logged out.", device=self.device)
            case Outcome.LOGGED_OUT_ELSEWHERE:
                done = _("You're logged out everywhere else.")
        return language.sentence_gap.join(
            filter(None, (done, effect(language, effective_within_seconds)))
        )

    def _content(self, until: str) -> str:
        return f"{self.outcome}\0{self.device}\0{until}"


def effect(language: Language, within_seconds: int) -> str:
    """Return a sentence on when a log-out takes effect everywhere; empty if at once."""
    if not within_seconds:
        return ""
    return language.ngettext(
        "This takes effect everywhere within %(count)d second.",
        "This takes effect everywhere within %(count)d seconds.",
        within_seconds,
    )
