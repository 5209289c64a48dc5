"""What the world of `near_cache_world` knows of sessions, of calls on their way, and of what is kept."""

from dataclasses import dataclass

from session_authority.near_cache.flights import Flight


@dataclass(eq=False)
class Login:
    """A session as its authority knows it."""

    token: str
    session_id: str
    user: str
    expires: float
    ended: float | None = None  # or when the token was superseded

    def lives(self, now: float) -> bool:
        return self.ended is None and now < self.expires


@dataclass(eq=False)
class Call:
    """A validation on its way, to the authority or back."""

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
    """What the naive cache keeps of a session.

    Attributes:
        used: Its latest use that counts, be it noted or not.
        looked: The latest time that it was looked at, which may count.
    """

    login: Login
    dead: float
    due: float
    ip_address: str | None
    used: float
    looked: float
