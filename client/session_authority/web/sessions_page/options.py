"""The options of the page."""

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from session_authority.errors import ConfigurationError

EFFECTIVE_LIMIT_SECONDS = 3600
LEASE_SECONDS = 2
"""The authority's cache lease. A near cache may learn of an ended session this late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """The appearance and the links of the page.

    A URL is either a path of this site ("/account") or begins with "https://" (or "http://", for
    development). All other URLs are refused, such as "javascript:".

    Attributes:
        app_name: The name of the site, for the title.
        home_url: The URL of the link back. By default, the page has no such link.
        sign_in_url: The URL of the link for signed-out visitors. By default, the page has no such link. The
            URL receives the page's path as the query field `next`.
        reauthenticate_url: The URL for users who must confirm their identity by the authority's policy. It
            receives `next` too. By default, `sign_in_url`.
        signed_out_path: The destination after signing out, by default the page itself. It is a path of this
            site, because the page's security policy blocks forms that lead elsewhere.
        language: The only language of the page, such as "de". By default, each visitor's language.
        catalogues: A folder with further `.po` files, named after their language ("nl.po").
        stylesheet_path: The path of a style sheet on this site that sets the page's colours and fonts.
        icon_path: The path of an icon on this site, for the browser's tab. By default, the page's own icon.
        effective_within_seconds: Time in whole seconds for which some service may still accept an ended
            session, because it caches validations. The page shows this time. By default, 2 (the authority's
            cache lease) if the client has a near cache, and otherwise 0.
        show_ended: Whether to show recently ended sessions, with the reason.

    Raises:
        ConfigurationError: If an option is invalid. The error names the option and the reason.
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
                    name,
                    'must be a path of this site, such as "/sign-in", or begin with "https://"',
                )
        for name in ("signed_out_path", "stylesheet_path", "icon_path"):
            path = getattr(self, name)
            if path is not None and not is_path(path):
                raise ConfigurationError(name, 'must be a path of this site, such as "/goodbye"')
        if not 0 <= (self.effective_within_seconds or 0) <= EFFECTIVE_LIMIT_SECONDS:
            raise ConfigurationError(
                "effective_within_seconds", f"must be from 0 to {EFFECTIVE_LIMIT_SECONDS}"
            )
        if self.catalogues is not None and not self.catalogues.is_dir():
            raise ConfigurationError("catalogues", "is not a folder")

    def with_near_cache(self) -> "PageOptions":
        """Return these options for a page whose client has a near cache."""
        if self.effective_within_seconds is not None:
            return self
        return replace(self, effective_within_seconds=LEASE_SECONDS)


def is_path(address: str) -> bool:
    """Return whether every browser treats a URL as a path of this site."""
    # Browsers treat a backslash as a slash, remove control characters, and read a host after two slashes.
    return address.startswith("/") and not address.startswith("//") and _is_plain(address)


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and bool(parts.hostname) and _is_plain(address)


def _is_plain(address: str) -> bool:
    return "\\" not in address and all(character > " " for character in address)
