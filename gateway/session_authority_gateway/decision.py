"""The one decision about a request, which Envoy's and the HTTP proxies' surfaces share. It does no I/O."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from session_authority.session import Rejection, Session
from session_authority.web.cookies import SetCookie, may_clear
from session_authority.web.next_page import confirm_address, is_same_page
from session_authority.web.site import Arrival
from session_authority.web.visit import RETRY_AFTER_SECONDS
from session_authority_gateway import identity
from session_authority_gateway.identity import Headers
from session_authority_gateway.options import Options

CACHE_HEADERS: Headers = (
    ("cache-control", "no-store"),
    ("vary", "Cookie, Authorization, X-Session-Token"),
)
"""The headers of every answer about a session, so that no cache passes it on to another visitor."""


class Inbound(NamedTuple):
    """A request that a proxy asks about.

    Attributes:
        method: The original HTTP method.
        uri: The original path with its query, as received; "" if the proxy does not say.
        arrival: The original headers, host and scheme.
    """

    method: str
    uri: str
    arrival: Arrival


class Allowed(NamedTuple):
    """The request may pass.

    Attributes:
        identity: The identity headers for the upstream. Empty on an optional route without a session.
        set_cookies: The cookies that the response to the browser must clear.
    """

    identity: Headers
    set_cookies: Sequence[SetCookie] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The request must not reach the upstream. The browser or program gets this response.

    Attributes:
        status: The HTTP status.
        error: The code of the error, for programs.
        message: The error for people.
        location: The target of the redirect; "" for none.
        challenge: The value of `WWW-Authenticate`; "" for none.
        retry_after_seconds: After how many seconds a repetition may succeed; 0 if it would fail again.
        set_cookies: The cookies that the response must clear.
    """

    status: int
    error: str
    message: str
    location: str = ""
    challenge: str = ""
    retry_after_seconds: int = 0
    set_cookies: Sequence[SetCookie] = ()

    def headers(self) -> Headers:
        """Return the headers of the response, with its cookies."""
        headers = [("content-type", "application/json"), *CACHE_HEADERS]
        if self.location:
            headers.append(("location", self.location))
        if self.challenge:
            headers.append(("www-authenticate", self.challenge))
        if self.retry_after_seconds:
            headers.append(("retry-after", str(self.retry_after_seconds)))
        headers += [("set-cookie", each.header()) for each in self.set_cookies]
        return tuple(headers)

    def body(self) -> bytes:
        """Return the body of the response, as JSON."""
        return json.dumps({"error": self.error, "message": self.message}).encode()


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of the app to which browsers are redirected. Each is a path or an address; "" for none.

    Attributes:
        sign_in: Where users sign in.
        reauthenticate: Where users confirm their identity.
    """

    sign_in: str = ""
    reauthenticate: str = ""


UNAVAILABLE = Refused(
    503,
    "unavailable",
    "The session can't be checked right now. This doesn't log you out. Please try again in a few seconds.",
    retry_after_seconds=RETRY_AFTER_SECONDS,
)
"""The answer during an outage. It clears no cookie, because the session may be live."""


def decide(
    outcome: Session | Rejection,
    options: Options,
    inbound: Inbound,
    pages: Pages,
    now: datetime,
    set_cookies: Sequence[SetCookie] = (),
) -> Allowed | Refused:
    """Return what happens to a request.

    Args:
        outcome: The authority's answer about the request's token.
        options: The options of the route.
        inbound: The request.
        pages: Where browsers go to sign in.
        now: The current time.
        set_cookies: The cookies that the response must clear.
    """
    if isinstance(outcome, Session):
        if options.max_age is not None and now - outcome.authenticate_time > options.max_age:
            return _too_old(options, inbound, pages)
        if options.methods and options.methods.isdisjoint(outcome.authentication_methods):
            return _other_method(options)
        return Allowed(identity.headers_of(outcome))
    if not options.required:
        return Allowed((), set_cookies)
    return _sign_in(inbound, pages, set_cookies)


def bad_option(message: str) -> Refused:
    """Return the answer for a route whose options are invalid. The operator must correct them."""
    return Refused(500, "bad_option", message)


def forged(names: Sequence[str]) -> Refused:
    """Return the answer for a request with an identity header that the proxy would let through."""
    return Refused(
        403, "forged_header", f"remove {names[0][:64]!r}: only the gateway may set identity headers"
    )


def _sign_in(inbound: Inbound, pages: Pages, set_cookies: Sequence[SetCookie]) -> Refused:
    error, message = "session_required", "Not logged in"
    location = _redirect(inbound, pages.sign_in)
    if location:
        return Refused(303, error, message, location, set_cookies=set_cookies)
    return Refused(401, error, message, challenge="Bearer", set_cookies=set_cookies)


def _too_old(options: Options, inbound: Inbound, pages: Pages) -> Refused:
    assert options.max_age is not None
    error, message = "reauthentication_required", "Please confirm your identity first."
    location = _redirect(inbound, pages.reauthenticate or pages.sign_in)
    if location:
        return Refused(303, error, message, location)
    seconds = int(options.max_age.total_seconds())
    # RFC 9470, section 3.
    challenge = f'Bearer error="insufficient_user_authentication", max_age="{seconds}"'
    return Refused(401, error, message, challenge=challenge)


def _other_method(options: Options) -> Refused:
    wanted = ", ".join(sorted(options.methods))
    return Refused(
        403, "method_required", f"Please log in with one of these methods first: {wanted}"
    )


def _redirect(inbound: Inbound, page: str) -> str:
    """Return where to redirect a navigation; "" for other requests, and for a request of that page itself."""
    if not page or inbound.method not in ("GET", "HEAD") or not _opens_page(inbound):
        return ""
    if _is_page(inbound, page):
        return ""
    return confirm_address(page, method=inbound.method, path=inbound.uri)


def _opens_page(inbound: Inbound) -> bool:
    """Say whether a browser opens a page for its user. A request of a script and a prefetch do not."""
    header = inbound.arrival.header
    return "text/html" in header("accept").lower() and may_clear(header)


def _is_page(inbound: Inbound, page: str) -> bool:
    """Say whether a request is for the page, so that a redirect to the page would never end."""
    host = urlsplit(page).netloc
    return is_same_page(inbound.uri, page) and (not host or host == inbound.arrival.host.lower())
