"""Sign-outs at an identity provider, which end the sessions that began with a sign-in there.

The provider reports them by OpenID Connect Back-Channel Logout 1.0, or as security events of OpenID Shared Signals 1.0.
"""

from session_authority.backchannel.provider import Provider

__all__ = ["Provider"]
