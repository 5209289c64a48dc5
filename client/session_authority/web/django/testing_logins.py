"""Logins of Django's test client without a request: `client.login` and `client.force_login`.

They work only if the site calls a `testing.Authority`. Django's session then stores the token, and each request of the
test presents it. With a real authority, this module does nothing.
"""

from collections.abc import Callable

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest

from session_authority.web.django.adopting import MARK
from session_authority.web.django.options import options
from session_authority.web.site import test_clocks

_TOKEN = "_session_authority_test_token"  # noqa: S105 - the key of a test's token, not a secret


def log_in(request: HttpRequest, user: AbstractBaseUser) -> None:
    """Create the session of a login of Django's test client.

    The test client passes an empty request, because no HTTP request was made. Do nothing if the site calls a real
    authority.
    """
    found = options()
    if found.client.address not in test_clocks:
        return
    new = found.client.create(str(user.pk), authenticate_time=found.site.clock())
    request.session[MARK] = new.session.session_id
    request.session[_TOKEN] = new.token.reveal()


def log_out(request: HttpRequest) -> None:
    """End the session that `log_in` created.

    The test client passes an empty request, because no HTTP request was made. Do nothing if the site calls a real
    authority.
    """
    found = options()
    if found.client.address in test_clocks:
        found.client.sign_out(request.session.get(_TOKEN))


def presenting(header: Callable[[str], str], login: SessionBase) -> Callable[[str], str]:
    """Return a function that reads headers, and that adds the token of a test's login to the cookies."""
    if not test_clocks:
        return header

    def header_or_token(name: str) -> str:
        found = options()
        token = login.get(_TOKEN) if name == "cookie" else None
        if token is None or found.client.address not in test_clocks:
            return header(name)
        presented = f"{found.site.cookie.name(local=False)}={token}"
        # The token comes first, so that it takes precedence over the cookie of an earlier login.
        return "; ".join(filter(None, (presented, header(name))))

    return header_or_token
