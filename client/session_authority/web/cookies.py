"""The cookie that holds a user's session token: how it is named, set, read and cleared.

Its expiry is never the timeout. The authority alone says when a session ends; a cookie that ended sooner would
leave a session behind that looks live in the user's list, and that nobody holds the token of any more. So it
lives as long as browsers let it, 400 days (RFC 6265bis, section 5.5), unless it is asked to go with the browser.
"""

import ipaddress
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field

COOKIE_HEADER_LIMIT_BYTES = 64 * 1024
"""Of a longer header nothing is read. Web servers accept no more."""
CANDIDATES_LIMIT = 4
"""How many different values of the one name are looked at, the first ones."""
MAX_AGE_SECONDS = 400 * 24 * 60 * 60

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}")
_VALUE = re.compile(r"[A-Za-z0-9_-]+")

_EARLY_HEADERS = ("sec-purpose", "x-sec-purpose", "purpose", "x-purpose", "x-moz")
"""What browsers send when nobody looks at the page yet: "prefetch", "prefetch;prerender", "preview"."""

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
"""What proxies set to "on" if the browser uses HTTPS."""
_FORWARDED_HOST = re.compile(r'host\s*=\s*"?([^";,]+)', re.IGNORECASE)

_log = logging.getLogger("session_authority.web")


@dataclass(frozen=True, slots=True)
class SetCookie:
    """One `Set-Cookie` header.

    Attributes:
        name: The cookie's name.
        value: Its value; empty where it is cleared.
        max_age_seconds: How long the browser keeps it; None for as long as it runs, 0 to clear it.
        domain: The domain whose sub-domains get it too, if any.
        secure: Whether it travels over HTTPS alone.
    """

    name: str
    value: str = field(repr=False)
    max_age_seconds: int | None
    domain: str | None
    secure: bool

    def header(self) -> str:
        """Give the header's value."""
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
    """The cookie of one site: `__Host-auth_session` unless told otherwise."""

    def __init__(
        self, name: str = "auth_session", *, domain: str | None = None, persistent: bool = True
    ) -> None:
        """Settle how the cookie looks.

        Args:
            name: Its name, without the prefix.
            domain: A domain, "example.com", all of whose sub-domains are to get the cookie. They can then
                set it as well, which a `__Host-` cookie rules out: leave it out where one host is enough.
            persistent: Whether it outlives the browser's being closed.

        Raises:
            ValueError: The name or the domain can't be that of a cookie.
        """
        if not _NAME.fullmatch(name) or name.lower().startswith(("__host-", "__secure-")):
            raise ValueError(f"a cookie's name is 1 to 64 letters, without a prefix: {name!r}")
        if domain is not None and not _DOMAIN.fullmatch(domain.lower().removeprefix(".")):
            raise ValueError(f"the cookie's domain is not of the form example.com: {domain!r}")
        self._plain_name = name
        self._domain = domain and domain.lower().removeprefix(".")
        self._secure_name = ("__Secure-" if domain else "__Host-") + name
        self.persistent = persistent
        self._warned = False
        self._warned_of_plain_http = False

    def name(self, *, local: bool) -> str:
        """Give the name that the cookie is set under."""
        return self._plain_name if local else self._secure_name

    def tokens(self, header: str, *, local: bool) -> tuple[str, ...]:
        """Find what may be tokens in a `Cookie` header, each once, in the browser's order.

        There may be several: browsers keep cookies of one name apart by domain and path, and send them all.
        A value may stand in quotes (RFC 6265, section 4.1.1). Only spaces and tabs are stripped. If other characters
        were, an attacker could set a cookie under a name that browsers do not protect by its prefix.
        """
        if len(header) > COOKIE_HEADER_LIMIT_BYTES:
            return ()
        # Where the plain name counts, a prefixed one is at least as good: this host set it over HTTPS.
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
        """Make the header that hands a token to the browser.

        Args:
            token: The token.
            local: Whether the browser talks plain HTTP to its own machine.
            persistent: Whether it outlives the browser's being closed; as for the site unless given.
        """
        if not _VALUE.fullmatch(token):
            raise ValueError("a session token has letters, digits, '_' and '-' only")
        if local and not self._warned:
            self._warned = True
            _log.warning(
                "The session cookie is set without Secure, under the plain name %s, because the browser "
                "talks plain HTTP to localhost. Fine for development; otherwise make the proxy pass the "
                "Host header on.",
                self._plain_name,
            )
        kept = self.persistent if persistent is None else persistent
        return self._set(token, MAX_AGE_SECONDS if kept else None, local)

    def warn_of_plain_http(self, origin: str) -> None:
        """Say once that the browsers of a site that is reached in plain HTTP do not keep the cookie."""
        if self._warned_of_plain_http:
            return
        self._warned_of_plain_http = True
        _log.warning(
            "Somebody signs in at %s, in plain HTTP, where browsers refuse the session cookie: it is Secure. "
            "Serve HTTPS; if a proxy does, name it among the trusted proxies for its X-Forwarded-Proto to "
            "count, or give the site's origin.",
            origin,
        )

    def cleared(self, *, local: bool) -> tuple[SetCookie, ...]:
        """Make the headers that take the cookie away, under whatever name it was read."""
        cleared = self._set("", 0, local=False)
        return (cleared, self._set("", 0, local=True)) if local else (cleared,)

    def _set(self, value: str, max_age_seconds: int | None, local: bool) -> SetCookie:
        domain = None if local else self._domain
        return SetCookie(self.name(local=local), value, max_age_seconds, domain, secure=not local)


def may_clear(header: Callable[[str], str]) -> bool:
    """Say whether the answer to a request may clear the cookie: only if the request opens a page.

    A script's request, a prefetch or a preview may have started before a sign-in in the same browser. Its answer
    would take the new cookie away. A page is opened after the sign-in that leads to it.

    Args:
        header: Returns a header by its name in lower case, or "".
    """
    opens = header("sec-fetch-mode").lower() in ("", "navigate")
    is_script = (
        header("sec-fetch-dest").lower() == "empty"
        # Of browsers that send no Sec-Fetch headers. Android apps send their own name in X-Requested-With.
        or header("x-requested-with").lower() == "xmlhttprequest"
        or header("upgrade").lower() == "websocket"
    )
    is_early = any(header(name) for name in _EARLY_HEADERS)
    return opens and not is_script and not is_early


def is_local(scheme: str, host: str, origin: str = "") -> bool:
    """Say whether a browser talks plain HTTP to its own machine, where a Secure cookie may not work.

    Args:
        scheme: The request's scheme, as far as is known.
        host: The `Host` header.
        origin: The `Origin` header, if any. It gives away a proxy that puts its own host name into the
            request, as some do unless told otherwise: no site that others visit loses Secure by that.
    """
    return scheme in {"http", "ws"} and _is_own_machine(host) and is_local_origin(origin)


def is_local_origin(origin: str | None) -> bool:
    """Say whether an origin, if there is one, is plain HTTP on the browser's own machine."""
    if not origin or origin == "null":
        return True
    scheme, _, host = origin.partition("://")
    return scheme == "http" and _is_own_machine(host)


def is_local_request(scheme: str, host: str, header: Callable[[str], str]) -> bool:
    """Say whether a request is local by all that its headers say, even those of proxies that nobody trusts.

    Args:
        scheme: The request's scheme, as far as is known.
        host: The `Host` header.
        header: Returns a header by its name in lower case, or "".
    """
    return is_local(scheme, host, header("origin")) and not _is_forwarded_from_elsewhere(header)


def _is_forwarded_from_elsewhere(header: Callable[[str], str]) -> bool:
    """Say whether a proxy says that the browser uses HTTPS or another machine's host name."""
    hosts = [*header("x-forwarded-host").split(","), *_FORWARDED_HOST.findall(header("forwarded"))]
    return (
        any("https" in header(name).lower() for name in _SCHEME_HEADERS)
        or any(header(name).strip().lower() == "on" for name in _TLS_HEADERS)
        or not all(_is_own_machine(host.strip()) for host in hosts if host.strip())
    )


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _is_own_machine(host: str) -> bool:
    name = host.partition("]")[0].removeprefix("[") if "[" in host else host.partition(":")[0]
    name = name.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
