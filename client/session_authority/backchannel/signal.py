"""The request of a provider's token."""

from dataclasses import dataclass

from session_authority.backchannel.provider import Provider

REASON = "signed out at the identity provider"
"""The reason in the audit log."""


@dataclass(frozen=True, slots=True)
class EndedIdentity:
    """Identifies the sessions to end: those of one session at the provider, or all of one user.

    Attributes:
        issuer: The provider's issuer.
        subject: The user's id at the provider, if given.
        sid: The id of the session at the provider. If given, only its sessions end.
    """

    issuer: str
    subject: str | None
    sid: str | None


@dataclass(frozen=True, slots=True)
class Signal:
    """A token that obeys all rules, except that its signature has not been verified yet.

    Attributes:
        provider: The provider that it names as its issuer.
        token_id: Its `jti`.
        accepted_until: Until when it would be accepted, in seconds since 1970.
        ended: Whose sessions end; None if the token asks for nothing.
    """

    provider: Provider
    token_id: str
    accepted_until: float
    ended: EndedIdentity | None
