"""What an app can say about its page."""

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from session_authority.errors import ConfigurationError

EFFECTIVE_LIMIT_SECONDS = 3600
LEASE_SECONDS = 2
"""The authority's: for so long a near cache may not have heard of an ending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """How the page looks and where it leads.

    An address is either a path of this site ("/account") or a whole "https://..." one ("http://" for
    development); anything else is refused, "javascript:" above all.

    Attributes:
        app_name: What the site is called, for the title; nothing unless given.
        home_url: Where the link back leads; there is none unless given.
        sign_in_url: Where visitors who are signed out are sent to; no link unless given. It gets the
            page's own path as the query field `next`.
        reauthenticate_url: Where users prove again who they are when the authority's policy asks for
            it; it gets `next` too. Unless given, they are sent to `sign_in_url`.
        signed_out_path: Where signing out leads: a path of this site, because the page's security
            policy lets no form lead elsewhere. The page itself, saying so, unless given.
        language: The one language of the page, such as "de"; unless given, each visitor's own.
        catalogues: A folder with further `.po` files, named after their language ("nl.po").
        stylesheet_path: A style sheet of the site, to set the page's colours and fonts: a path of this
            site.
        icon_path: An icon of the site, for the browser's tab: a path of this site. The page has its own.
        effective_within_seconds: How long an ended session may still be accepted somewhere, in whole
            seconds, where validations are cached; the page then says so. 0: at once, which it is unless
            given or the client has a near cache; then it is 2, the authority's lease.
        show_ended: Whether to show which sessions ended lately, and why.

    Raises:
        ConfigurationError: An option has no usable value; it says which and why.
    """

    app_name: str = ""
    home_url: str | None = None
    sign_in_url: str | None = None
    reauthenticate_url: str | None = None
    signed_out_path: str | None = None
    language: str | None = None
    catalogues: Path | None = None
    stylesheet_path: str | None = None
    icon_path: str | None = None
    effective_within_seconds: int | None = None
    show_ended: bool = True

    def __post_init__(self) -> None:
        for name in ("home_url", "sign_in_url", "reauthenticate_url"):
            address = getattr(self, name)
            if address is not None and not (is_path(address) or _is_web_address(address)):
                raise ConfigurationError(
                    name, 'must be a path of this site, as "/sign-in", or begin with "https://"'
                )
        for name in ("signed_out_path", "stylesheet_path", "icon_path"):
            path = getattr(self, name)
            if path is not None and not is_path(path):
                raise ConfigurationError(name, 'must be a path of this site, as "/goodbye"')
        if not 0 <= (self.effective_within_seconds or 0) <= EFFECTIVE_LIMIT_SECONDS:
            raise ConfigurationError(
                "effective_within_seconds", f"must be from 0 to {EFFECTIVE_LIMIT_SECONDS}"
            )
        if self.catalogues is not None and not self.catalogues.is_dir():
            raise ConfigurationError("catalogues", "is not a folder")

    def with_near_cache(self) -> "PageOptions":
        """Return the options of a page whose client has a near cache."""
        if self.effective_within_seconds is not None:
            return self
        return replace(self, effective_within_seconds=LEASE_SECONDS)


def is_path(address: str) -> bool:
    """Say whether an address is a path of this site, whatever a browser makes of it."""
    # Browsers take a backslash for a slash, drop control characters, and go to another host after two.
    return address.startswith("/") and not address.startswith("//") and _is_plain(address)


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.hostname) and _is_plain(address)


def _is_plain(address: str) -> bool:
    return "\\" not in address and all(character > " " for character in address)
