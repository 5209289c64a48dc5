"""The session token: the one secret that apps hold, wrapped so that it doesn't leak by accident."""

import hmac
from typing import NoReturn, TypeAlias, final

SESSION_TOKEN_METADATA_KEY = "x-session-token"  # noqa: S105 - the name of a header, not a secret
"""The gRPC metadata key under which a user's session token travels from service to service."""

TOKEN_LIMIT_BYTES = 256
"""No token is longer: the authority's have 74 characters. What exceeds this is not worth a call."""


@final
class SessionToken:
    """A session token that shows itself only when asked to.

    `str()`, `repr()` and formatting give a mask, equality takes constant time, and pickling is
    refused. Every method that takes a token takes either this or a plain `str`.

    Args:
        value: The token itself.

    Raises:
        TypeError: `value` is not a `str`.
        ValueError: `value` is empty.
    """

    __slots__ = ("_value",)

    _value: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a session token is made of a str, not of {type(value).__name__}")
        if not value:
            raise ValueError("a session token is not empty")
        object.__setattr__(self, "_value", value)

    def reveal(self) -> str:
        """Give the token itself, to put it into a cookie or the metadata of a call."""
        return self._value

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a session token does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a session token does not change")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SessionToken):
            return NotImplemented
        return hmac.compare_digest(_bytes(self._value), _bytes(other._value))

    def __hash__(self) -> int:
        return hash((SessionToken, self._value))

    def __repr__(self) -> str:
        return "SessionToken('ses_…')"

    __str__ = __repr__

    def __copy__(self) -> "SessionToken":
        return self

    def __deepcopy__(self, memo: object) -> "SessionToken":
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a session token is not pickled by accident: pickle what reveal() gives")


Token: TypeAlias = str | SessionToken | None


def presentable(token: Token) -> str:
    """Give the token's text, or an empty one for what cannot be a token and needs no look-up.

    The latter is what any visitor may put into a cookie: nothing, bytes beyond ASCII, or a text so
    long that it would crowd out the other requests of a batch.
    """
    text = token.reveal() if isinstance(token, SessionToken) else token
    if text is None:
        return ""
    if not isinstance(text, str):
        raise TypeError(f"a session token is a str or a SessionToken, not {type(text).__name__}")
    return text if text.isascii() and len(text) <= TOKEN_LIMIT_BYTES else ""


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")
