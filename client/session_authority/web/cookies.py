"""The cookie with a user's session token: its name, and how it is set, read and cleared.

Only the authority ends a session. If a cookie expired sooner, the user's list would show a live session that no browser
can use. So the cookie lasts as long as browsers allow, 400 days (RFC 6265bis, section 5.5), or until the browser is
closed.
"""

import ipaddress
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field

COOKIE_HEADER_LIMIT_BYTES = 64 * 1024
"""A longer header is ignored. Web servers accept no longer one."""
CANDIDATES_LIMIT = 4
"""If several cookies have the name, only this many different values are read, the first ones."""
MAX_AGE_SECONDS = 400 * 24 * 60 * 60

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")
_VALUE = re.compile(r"[A-Za-z0-9_-]+")

_EARLY_HEADERS = ("sec-purpose", "x-sec-purpose", "purpose", "x-purpose", "x-moz")
"""Browsers send these headers for a page that the user does not see yet: "prefetch", "prerender", "preview"."""

_SCHEME_HEADERS = (
    "x-forwarded-proto",
    "forwarded",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-url-scheme",
    "cloudfront-forwarded-proto",
    "cf-visitor",
)
_TLS_HEADERS = ("x-forwarded-ssl", "front-end-https")
"""Proxies set these headers to "on" if the browser uses HTTPS."""
_FORWARDED_HOST = re.compile(r'host\s*=\s*"?([^";,]+)', re.IGNORECASE)

_log = logging.getLogger("session_authority.web")


@dataclass(frozen=True, slots=True)
class SetCookie:
    """One `Set-Cookie` header.

    Attributes:
        name: The cookie's name.
        value: The cookie's value; empty to clear it.
        max_age_seconds: How long the browser keeps the cookie. None means until the browser is closed; 0 clears the
            cookie.
        domain: The domain whose sub-domains also get the cookie, if any.
        secure: Whether browsers send the cookie over HTTPS only.
    """

    name: str
    value: str = field(repr=False)
    max_age_seconds: int | None
    domain: str | None
    secure: bool

    def header(self) -> str:
        """Return the header's value."""
        parts = [f"{self.name}={self.value}", "Path=/"]
        if self.max_age_seconds is not None:
            parts.append(f"Max-Age={self.max_age_seconds}")
        if self.max_age_seconds == 0:
            parts.append("Expires=Thu, 01 Jan 1970 00:00:00 GMT")
        if self.domain is not None:
            parts.append(f"Domain={self.domain}")
        if self.secure:
            parts.append("Secure")
        return "; ".join([*parts, "HttpOnly", "SameSite=Lax"])


class SessionCookie:
    """The session cookie of a site: `__Host-auth_session` by default."""

    def __init__(
        self, name: str = "auth_session", *, domain: str | None = None, persistent: bool = True
    ) -> None:
        """Check the name and the domain.

        Args:
            name: The cookie's name, without the prefix.
            domain: A domain such as "example.com", whose sub-domains all get the cookie. They can then also set it,
                which a `__Host-` cookie prevents. Leave it out if the site has a single host.
            persistent: Whether the cookie stays when the browser is closed.

        Raises:
            ValueError: A cookie cannot have this name or domain.
        """
        if not _NAME.fullmatch(name) or name.lower().startswith(("__host-", "__secure-")):
            raise ValueError(
                f"a cookie's name must have 1 to 64 letters and no __Host- or __Secure- prefix: {name!r}"
            )
        if domain is not None and not _DOMAIN.fullmatch(domain.lower().removeprefix(".")):
            raise ValueError(f"the cookie's domain must have the form example.com, not {domain!r}")
        self._plain_name = name
        self._domain = domain and domain.lower().removeprefix(".")
        self._secure_name = ("__Secure-" if domain else "__Host-") + name
        self.persistent = persistent
        self._warned = False
        self._warned_of_plain_http = False

    def name(self, *, local: bool) -> str:
        """Return the cookie's name: with the prefix `__Host-` or `__Secure-`, or the plain name if `local`.

        Args:
            local: Whether the browser uses plain HTTP to its own machine.
        """
        return self._plain_name if local else self._secure_name

    def tokens(self, header: str, *, local: bool) -> tuple[str, ...]:
        """Return the possible tokens of a `Cookie` header, each once, in the browser's order.

        There may be several: browsers store cookies of one name per domain and path, and send them all. A value may be
        in quotes (RFC 6265, section 4.1.1).

        Only spaces and tabs are stripped from a name. If other characters were stripped too, an attacker could set a
        cookie whose name has the prefix only here. Browsers would not see the prefix, and not protect the cookie.
        """
        if len(header) > COOKIE_HEADER_LIMIT_BYTES:
            return ()
        # On a local host, also accept the cookie with the prefix: the same host has set it earlier, over HTTPS.
        names = (self._secure_name, self._plain_name) if local else (self._secure_name,)
        found: dict[str, None] = {}
        for name in names:
            if name not in header:
                continue
            for pair in header.split(";"):
                key, separator, value = pair.strip(" \t").partition("=")
                if separator and key == name and (value := _unquoted(value.lstrip(" \t"))):
                    found.setdefault(value)
                    if len(found) == CANDIDATES_LIMIT:
                        return tuple(found)
        return tuple(found)

    def holding(self, token: str, *, local: bool, persistent: bool | None = None) -> SetCookie:
        """Return the header that sends a token to the browser.

        Args:
            token: The token.
            local: Whether the browser uses plain HTTP to its own machine.
            persistent: Whether the cookie stays when the browser is closed. The default is the site's.
        """
        if not _VALUE.fullmatch(token):
            raise ValueError("a session token must have only letters, digits, '_' and '-'")
        if local and not self._warned:
            self._warned = True
            _log.warning(
                "The session cookie is set without Secure, under the plain name %s, because the browser "
                "uses plain HTTP to localhost. This is right for development only. In production, configure "
                "the proxy to forward the Host header.",
                self._plain_name,
            )
        kept = self.persistent if persistent is None else persistent
        return self._set(token, MAX_AGE_SECONDS if kept else None, local)

    def warn_of_plain_http(self, origin: str) -> None:
        """Log once that browsers reject the cookie of a site with plain HTTP."""
        if self._warned_of_plain_http:
            return
        self._warned_of_plain_http = True
        _log.warning(
            "A user signs in at %s over plain HTTP, where browsers reject the session cookie, because it is "
            "Secure. Serve HTTPS. If a proxy does so, add it to the trusted proxies, so that its "
            "X-Forwarded-Proto counts, or set the site's origin.",
            origin,
        )

    def cleared(self, *, local: bool) -> tuple[SetCookie, ...]:
        """Return the headers that clear the cookie.

        If `local`, the browser may hold the cookie under the secure name and under the plain name, so return one
        header for each.
        """
        cleared = self._set("", 0, local=False)
        return (cleared, self._set("", 0, local=True)) if local else (cleared,)

    def _set(self, value: str, max_age_seconds: int | None, local: bool) -> SetCookie:
        domain = None if local else self._domain
        return SetCookie(self.name(local=local), value, max_age_seconds, domain, secure=not local)


def may_clear(header: Callable[[str], str]) -> bool:
    """Say whether the response to a request may clear the cookie. It may if the request opens a page.

    A script's request, a prefetch or a preview may have started before a newer sign-in in the same browser. Its response
    would then clear the new cookie. A request that opens a page starts after the sign-in.

    Args:
        header: Returns a header by its lower-case name, or "".
    """
    opens = header("sec-fetch-mode").lower() in ("", "navigate")
    is_script = (
        header("sec-fetch-dest").lower() == "empty"
        # For browsers without Sec-Fetch headers. Android apps send their own name in X-Requested-With.
        or header("x-requested-with").lower() == "xmlhttprequest"
        or header("upgrade").lower() == "websocket"
    )
    is_early = any(header(name) for name in _EARLY_HEADERS)
    return opens and not is_script and not is_early


def is_local(scheme: str, host: str, origin: str = "") -> bool:
    """Say whether a browser uses plain HTTP to its own machine, where a Secure cookie may not work.

    Args:
        scheme: The request's scheme, if known.
        host: The `Host` header.
        origin: The `Origin` header, if any. Some proxies by default put their own host name into `Host`. The origin then
            still shows that the site is not local.
    """
    return scheme in {"http", "ws"} and is_own_machine(host) and is_local_origin(origin)


def is_local_origin(origin: str | None) -> bool:
    """Say whether an origin is plain HTTP on the browser's own machine. True if there is none, or it is "null"."""
    if not origin or origin == "null":
        return True
    scheme, _, host = origin.partition("://")
    return scheme == "http" and is_own_machine(host)


def is_local_request(scheme: str, host: str, header: Callable[[str], str]) -> bool:
    """Say whether all headers of a request show that it is local, even those of untrusted proxies.

    Args:
        scheme: The request's scheme, if known.
        host: The `Host` header.
        header: Returns a header by its lower-case name, or "".
    """
    return is_local(scheme, host, header("origin")) and not _is_forwarded_from_elsewhere(header)


def _is_forwarded_from_elsewhere(header: Callable[[str], str]) -> bool:
    """Say whether a proxy's headers show that the browser uses HTTPS or the host name of another machine."""
    hosts = [*header("x-forwarded-host").split(","), *_FORWARDED_HOST.findall(header("forwarded"))]
    return (
        any("https" in header(name).lower() for name in _SCHEME_HEADERS)
        or any(header(name).strip().lower() == "on" for name in _TLS_HEADERS)
        or not all(is_own_machine(host.strip()) for host in hosts if host.strip())
    )


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def is_own_machine(host: str) -> bool:
    """Say whether a `Host` header names the browser's own machine."""
    name = host.partition("]")[0].removeprefix("[") if "[" in host else host.partition(":")[0]
    name = name.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if ":" not in name and not name[-1:].isdigit():  # no address: most hosts end here
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
