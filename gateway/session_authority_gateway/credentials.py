"""The session token of a request, apart from the cookie, which `session_authority.web.cookies` reads."""

from collections.abc import Callable

from session_authority.session_token import SESSION_TOKEN_METADATA_KEY as TOKEN_HEADER

_SCHEME = "bearer "
_PREFIX = "ses_"


def token_of_headers(header: Callable[[str], str]) -> str | None:
    """Return the token of `x-session-token`, or else of `Authorization: Bearer ses_...`; None without either.

    A request with such a token is a program's. Its cookie does not count, even if the token is invalid. Otherwise, the
    request of one user could run with the session of another.

    Other bearer tokens, such as OAuth access tokens, are left to the upstream.

    Args:
        header: Returns a header by its lower-case name, or "".
    """
    if token := header(TOKEN_HEADER):
        return token
    authorization = header("authorization")
    if authorization[: len(_SCHEME)].lower() != _SCHEME:
        return None
    token = authorization[len(_SCHEME) :].strip(" \t")
    return token if token.startswith(_PREFIX) else None
