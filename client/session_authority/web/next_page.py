"""The way to a page that confirms who the user is, and back to where the user was."""

from posixpath import normpath
from urllib.parse import unquote, urlencode, urlsplit

from session_authority.web.sessions_page.options import is_path


def confirm_address(
    confirm_url: str, *, method: str, path: str, referer: str = "", origin: str = ""
) -> str:
    """Return the address of the confirming page, with the page to return to as `next`.

    After a form was refused, that is the page that held the form: the form's target may answer no GET.

    Args:
        confirm_url: The confirming page.
        method: The HTTP method of the refused request.
        path: The path of the refused request, with its query.
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

    The confirming page itself is no page to return to: the user would confirm without end.
    """
    if not given or not is_path(given) or (confirm_url and is_same_page(given, confirm_url)):
        return default
    return given


def is_same_page(path: str, url: str) -> bool:
    """Say whether a path of this site is that of an address."""
    return _normal_path(path) == _normal_path(url)


def _normal_path(address: str) -> str:
    """Return the path of an address as a server reads it: unquoted, and without dots."""
    return normpath(unquote(urlsplit(address).path))
