"""A site whose user has the usual sessions."""

from datetime import timedelta

from session_authority import NewSession
from session_authority_server.domain.policy import Policy
from tests.browser.devices import CHROME_ON_WINDOWS, FIREFOX_ON_LINUX, IPAD, IPHONE, PIXEL
from tests.browser.site import Site

USUAL_POLICY = Policy(session_limit=None, max_authentication_age=timedelta(days=20))


def usual(site: Site, user: str) -> NewSession:
    """Sign in on six devices, log one of them out, and return the last session."""
    for agent in (FIREFOX_ON_LINUX, IPHONE, PIXEL, ""):
        site.sign_in(
            user,
            agent,
            authentication_methods=["pwd", "otp"],
            actor_id=None if agent else "support-7",
        )
    gone = site.sign_in(user, IPAD)
    site.run(site.authority.client.sign_out(gone.token))
    return site.sign_in(user, CHROME_ON_WINDOWS)
