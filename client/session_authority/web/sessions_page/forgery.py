"""Protect the page's forms against cross-site request forgery.

Each form carries a proof: a random salt, and its HMAC-SHA256 under a key derived from the session token.
Other sites can't compute it, and it is valid only for this token. Each response has a new proof, so
compressed responses don't leak it. The request's `Origin` and `Sec-Fetch-Site` headers must also match.
"""

import hashlib
import hmac
import secrets

from session_authority.web.exchange import PageRequest
from session_authority.web.origin import normal_origin

_SALT_BYTES = 16


def seal(token: str, purpose: str, content: str) -> str:
    """Return an HMAC that only a holder of the token can compute, and that doesn't reveal the token."""
    key = hmac.digest(token.encode(), b"session_authority.web.sessions_page", hashlib.sha256)
    return hmac.new(key, f"{purpose}\0{content}".encode(), hashlib.sha256).hexdigest()


def is_sealed(token: str, purpose: str, content: str, sealed: str) -> bool:
    """Return whether `sealed` is the HMAC of these values, in constant time."""
    return hmac.compare_digest(seal(token, purpose, content).encode(), sealed.encode())


def form_proof(token: str) -> str:
    """Return a new proof for a form."""
    salt = secrets.token_hex(_SALT_BYTES)
    return f"{salt}.{seal(token, 'form', salt)}"


def is_genuine(request: PageRequest, token: str) -> bool:
    """Return whether a form comes from the page and carries a proof for this token."""
    salt, _, sealed = request.form.get("proof", "").partition(".")
    return may_be_same_origin(request) and is_sealed(token, "form", salt, sealed)


def has_wrong_origin(request: PageRequest) -> bool:
    """Return whether `Origin` differs from the app's origin, although `Sec-Fetch-Site` is "same-origin".

    If so, the app does not know its own origin, usually because of a proxy.
    """
    origin = request.headers.get("origin", "null")
    return _is_same_origin(request) and origin != "null" and not _is_origin(request, origin)


def may_be_same_origin(request: PageRequest) -> bool:
    """Return False if `Origin` or `Sec-Fetch-Site` shows that the request comes from another origin.

    Current browsers send both headers with a form. A missing header is accepted: a request with a token also
    needs the form's proof. Under the referrer policy "no-referrer", which a proxy may set, browsers send
    `Origin: null`. Then `Sec-Fetch-Site` must be "same-origin".
    """
    origin = request.headers.get("origin")
    if origin == "null":
        return _is_same_origin(request)
    site = request.headers.get("sec-fetch-site", "same-origin")
    return site == "same-origin" and (origin is None or _is_origin(request, origin))


def _is_same_origin(request: PageRequest) -> bool:
    return request.headers.get("sec-fetch-site") == "same-origin"


def _is_origin(request: PageRequest, origin: str) -> bool:
    normal = normal_origin(origin)
    return normal is not None and normal == normal_origin(request.origin)
