"""The rules of logout tokens: OpenID Connect Back-Channel Logout 1.0, section 2.6.

https://openid.net/specs/openid-connect-backchannel-1_0.html
"""

from collections.abc import Sequence
from datetime import datetime

from session_authority.backchannel.provider import Provider
from session_authority.backchannel.signal import EndedIdentity, Signal
from session_authority.backchannel.signed_token import (
    Fault,
    Refused,
    SignedToken,
    addressed,
    check_age,
    check_expiry,
)

LOGOUT_AGE_SECONDS = 600
"""How old a logout token may be."""
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
# The specification recommends the first type. Older providers send "JWT" or none.
_TYPES = ("logout+jwt", "jwt", "")


def read_logout(token: SignedToken, providers: Sequence[Provider], now: datetime) -> Signal:
    """Check all rules of a logout token except its signature.

    Raises:
        Refused: The token breaks a rule.
    """
    if token.token_type not in _TYPES:
        raise Refused("typ must be logout+jwt")
    provider = _addressed(token, providers)
    accepted_until = check_age(token, now, LOGOUT_AGE_SECONDS)
    check_expiry(token, now)
    token_id = token.text_claim("jti")
    if token.event(LOGOUT_EVENT) is None:
        raise Refused(f"events must contain {LOGOUT_EVENT}")
    if "nonce" in token.claims:
        raise Refused("nonce must be absent, because an ID token must not pass for a logout token")
    subject = token.text_claim("sub") if "sub" in token.claims else None
    sid = token.text_claim("sid") if "sid" in token.claims else None
    if subject is None and sid is None:
        raise Refused("the token needs sub or sid")
    return Signal(provider, token_id, accepted_until, EndedIdentity(provider.issuer, subject, sid))


def _addressed(token: SignedToken, providers: Sequence[Provider]) -> Provider:
    """Return the provider of a token. As for ID tokens, no other party may be an audience."""
    provider, audiences, of_issuer = addressed(token, providers)
    own = {each.client_id for each in of_issuer}
    if not audiences <= own:
        raise Refused("aud contains other clients", Fault.INVALID_AUDIENCE)
    if "azp" in token.claims and token.text_claim("azp") not in own:
        raise Refused("azp is another client", Fault.INVALID_AUDIENCE)
    return provider
