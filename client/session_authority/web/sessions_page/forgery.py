"""Proof that a form was sent from the page itself, by the very session that the page was made for.

Each form carries a random salt and its HMAC-SHA256 under a key derived from the session token: another
site can't know it, another session's is worth nothing, and it dies with the token. As it is new in each
answer, compression tells nothing of it. Beyond that, what the browser says of where the request comes
from must agree.
"""

import hashlib
import hmac
import secrets

from session_authority.web.exchange import PageRequest
from session_authority.web.origin import normal_origin

_SALT_BYTES = 16


def seal(token: str, purpose: str, content: str) -> str:
    """Give what nobody can make without the token. It tells nothing about the token."""
    key = hmac.digest(token.encode(), b"session_authority.web.sessions_page", hashlib.sha256)
    return hmac.new(key, f"{purpose}\0{content}".encode(), hashlib.sha256).hexdigest()


def is_sealed(token: str, purpose: str, content: str, sealed: str) -> bool:
    """Say, in constant time, whether `sealed` was made of just these."""
    return hmac.compare_digest(seal(token, purpose, content).encode(), sealed.encode())


def form_proof(token: str) -> str:
    """Give the proof to put into a form."""
    salt = secrets.token_hex(_SALT_BYTES)
    return f"{salt}.{seal(token, 'form', salt)}"


def is_genuine(request: PageRequest, token: str) -> bool:
    """Say whether a form comes from the page, as made for this token."""
    salt, _, sealed = request.form.get("proof", "").partition(".")
    return comes_from_here(request) and is_sealed(token, "form", salt, sealed)


def is_misplaced(request: PageRequest) -> bool:
    """Say whether the browser calls the request this site's own, though the app takes its site for another."""
    origin = request.headers.get("origin", "null")
    return _is_same_origin(request) and origin != "null" and not _is_origin(request, origin)


def comes_from_here(request: PageRequest) -> bool:
    """Say whether the browser tells, or leaves open, that the request comes from this very site.

    Every current browser sends both headers with a form. If one is missing, the proof has to do. Under the
    policy "no-referrer", which a proxy may set, browsers send `Origin: null`; then `Sec-Fetch-Site` decides.
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
