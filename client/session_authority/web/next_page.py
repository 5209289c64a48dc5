"""Addresses of the page that confirms the user's identity, and of the page to return to."""

from posixpath import normpath
from urllib.parse import unquote, urlencode, urlsplit

from session_authority.web.sessions_page.options import is_path


def confirm_address(
    confirm_url: str, *, method: str, path: str, referer: str = "", origin: str = ""
) -> str:
    """Return the address of the confirming page, with the page to return to as `next`.

    If a form was rejected, the user returns to the page of the form, because the form's target may not answer GET.

    Args:
        confirm_url: The confirming page.
        method: The HTTP method of the rejected request.
        path: The path of the rejected request, with its query.
        referer: Its `Referer` header.
        origin: The origin that the browser sees.
    """
    if method not in ("GET", "HEAD"):
        path = referer.removeprefix(origin) if referer.startswith(origin + "/") else ""
    if not is_path(path) or is_same_page(path, confirm_url):
        return confirm_url
    return f"{confirm_url}{'&' if '?' in confirm_url else '?'}{urlencode({'next': path})}"


def next_page(given: str | None, *, default: str, confirm_url: str | None) -> str:
    """Return the page that `next` names if it is a path of this site, and the default otherwise.

    If `next` names the confirming page, return the default: the user would have to confirm again and again.
    """
    if not given or not is_path(given) or (confirm_url and is_same_page(given, confirm_url)):
        return default
    return given


def is_same_page(path: str, url: str) -> bool:
    """Say whether a path of this site is the path of an address."""
    return _normal_path(path) == _normal_path(url)


def _normal_path(address: str) -> str:
    """Return the path of an address as a server reads it: unquoted, and without dots."""
    return normpath(unquote(urlsplit(address).path))
