"""The ids of tokens that have been carried out."""

import hashlib
import threading

REMEMBERED_LIMIT = 100_000
"""How many tokens a process remembers. Beyond it, it forgets the oldest."""


class Replays:
    """Remembers tokens for as long as they would be accepted. Several threads may use it."""

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}  # in the order in which they were remembered
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._until)

    def contains(self, issuer: str, token_id: str) -> bool:
        """Say whether a token has been carried out."""
        return _digest(issuer, token_id) in self._until

    def remember(self, issuer: str, token_id: str, until: float, now: float) -> None:
        """Remember a token.

        Args:
            issuer: The issuer of the token.
            token_id: Its id.
            until: Until when it would be accepted, in seconds since 1970.
            now: The current time, likewise.
        """
        with self._lock:
            self._until[_digest(issuer, token_id)] = until
            for digest in list(self._oldest()):
                if self._until[digest] > now and len(self._until) <= REMEMBERED_LIMIT:
                    break
                del self._until[digest]

    def _oldest(self) -> list[bytes]:
        """Return the two oldest entries, so that more is forgotten than is added."""
        return [digest for _, digest in zip(range(2), self._until, strict=False)]


def _digest(issuer: str, token_id: str) -> bytes:
    return hashlib.sha256(f"{issuer}\0{token_id}".encode(errors="surrogatepass")).digest()[:16]
