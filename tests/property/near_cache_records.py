"""The records of `near_cache_world`: sessions, calls in flight, and cached entries."""

from dataclasses import dataclass

from session_authority.near_cache.flights import Flight


@dataclass(eq=False)
class Login:
    """A session in the authority."""

    token: str
    session_id: str
    user: str
    expires: float
    ended: float | None = None  # or when the token was superseded

    def lives(self, now: float) -> bool:
        return self.ended is None and now < self.expires


@dataclass(eq=False)
class Call:
    """A validation whose answer has not arrived yet."""

    login: Login
    flight: Flight
    sent: float
    passive: bool
    ip_address: str | None
    generation: int | None
    overtaken: bool = False
    accepted: bool | None = None
    last_active: float = 0.0


@dataclass(eq=False)
class Kept:
    """An entry of the naive cache.

    Attributes:
        used: The latest use that counts for the order, noted or not.
        looked: The latest hit. It may count as a use.
    """

    login: Login
    dead: float
    due: float
    ip_address: str | None
    used: float
    looked: float
