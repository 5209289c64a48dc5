"""The session token, wrapped so that it does not leak by accident."""

import hmac
from typing import NoReturn, TypeAlias, final

SESSION_TOKEN_METADATA_KEY = "x-session-token"  # noqa: S105 - the name of a header, not a secret
"""The gRPC metadata key that carries a user's session token from service to service."""

TOKEN_LIMIT_BYTES = 256
"""The client rejects a longer text without a call. The authority's tokens have 74 characters."""


@final
class SessionToken:
    """A session token that only `reveal` shows.

    `str()`, `repr()` and formatting return a mask. Comparison takes constant time. The token cannot be pickled. Each
    method with a `token` argument accepts this type or a plain `str`.

    Args:
        value: The text of the token.

    Raises:
        TypeError: `value` is not a `str`.
        ValueError: `value` is empty.
    """

    __slots__ = ("_value",)

    _value: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a session token must be a str, not {type(value).__name__}")
        if not value:
            raise ValueError("a session token must not be empty")
        object.__setattr__(self, "_value", value)

    def reveal(self) -> str:
        """Return the text of the token, for a cookie or the metadata of a call."""
        return self._value

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a session token is immutable")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a session token is immutable")

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
        raise TypeError("a session token cannot be pickled: pickle the result of reveal()")


Token: TypeAlias = str | SessionToken | None


def presentable(token: Token) -> str:
    """Return the text of a token, or an empty text if it cannot be a token.

    A visitor can put anything into a cookie. The client makes no call for an empty text, for characters beyond ASCII,
    or for a text that would fill a batch.
    """
    text = token.reveal() if isinstance(token, SessionToken) else token
    if text is None:
        return ""
    if not isinstance(text, str):
        raise TypeError(
            f"a session token must be a str or a SessionToken, not {type(text).__name__}"
        )
    return text if text.isascii() and len(text) <= TOKEN_LIMIT_BYTES else ""


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")
