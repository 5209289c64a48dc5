"""The headers that tell the upstream who the user is, and what happens to such headers from outside."""

from collections.abc import Collection
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import quote

from session_authority.session import Session

Headers: TypeAlias = tuple[tuple[str, str], ...]

HEADERS_KEPT = 4096
"""How many sessions' headers are kept, because encoding them costs more than the look-up."""
USER_ID = "x-session-user-id"
SESSION_ID = "x-session-id"
AUTHENTICATE_TIME = "x-session-authenticate-time"
AUTHENTICATION_METHODS = "x-session-authentication-methods"
ACTOR_ID = "x-session-actor-id"
NAMES = (USER_ID, SESSION_ID, AUTHENTICATE_TIME, AUTHENTICATION_METHODS, ACTOR_ID)
"""The names of the identity headers. Only the gateway sets them."""

# Characters of a value that stay as they are. Others are percent-encoded, in UTF-8. A comma would split a list.
_PLAIN = "-._~:@/+=|!$*()"

# CGI, WSGI and PHP turn each hyphen of a header's name into an underscore. Some servers do so with other characters.
_FOLDED = bytes(
    code
    if not chr(code).isascii() or chr(code) == "\n"
    else ord(chr(code).lower())
    if chr(code).isalnum()
    else ord("_")
    for code in range(256)
)
_FOLDED_NAMES = frozenset(name.encode().translate(_FOLDED) for name in NAMES)
_FOLDED_PREFIX = b"x_session_"


def headers_of(session: Session) -> Headers:
    """Return the identity headers of a session. Without methods or an actor, their headers are absent."""
    return _headers_of(
        session.user_id,
        session.session_id,
        session.authenticate_time,
        tuple(session.authentication_methods),
        session.actor_id,
    )


@lru_cache(maxsize=HEADERS_KEPT)
def _headers_of(
    user_id: str,
    session_id: str,
    authenticate_time: datetime,
    methods: tuple[str, ...],
    actor_id: str | None,
) -> Headers:
    headers = [
        (USER_ID, _encoded(user_id)),
        (SESSION_ID, session_id),
        (AUTHENTICATE_TIME, _rfc_3339(authenticate_time)),
    ]
    if methods:
        headers.append((AUTHENTICATION_METHODS, ",".join(map(_encoded, methods))))
    if actor_id is not None:
        headers.append((ACTOR_ID, _encoded(actor_id)))
    return tuple(headers)


def claimed(names: Collection[str]) -> list[str]:
    """Return those names of received headers that an upstream may take for an identity header.

    The names are compared without regard to case, and with every other character read as an underscore.
    """
    if not _may_claim("\n".join(names).encode("latin-1", "replace")):
        return []
    return [
        each
        for each in names
        if each.encode("latin-1", "replace").translate(_FOLDED) in _FOLDED_NAMES
    ]


def misspelt(names: Collection[bytes]) -> list[str]:
    """Return the claimed names whose spelling differs from the gateway's. Proxies do not overwrite these."""
    if not _may_claim(b"\n".join(names)):
        return []
    received = [name.decode("latin-1") for name in names]
    return [each for each in claimed(received) if each.lower() not in NAMES]


def _may_claim(names: bytes) -> bool:
    """Say whether one of the names, separated by line feeds, may be claimed. Usually none is."""
    return _FOLDED_PREFIX in names.translate(_FOLDED)


def _encoded(value: str) -> str:
    return quote(value, safe=_PLAIN)


def _rfc_3339(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
