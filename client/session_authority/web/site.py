"""The settings that all requests of a site share, and the data of a request, as the framework gives it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from session_authority.web.client_ip import ClientIp
from session_authority.web.cookies import SessionCookie
from session_authority.web.origin import site_origin

test_clocks: dict[str, Callable[[], datetime]] = {}
"""The clock of each running `testing.Authority`, by its address. Empty outside of tests."""


def system_time() -> datetime:
    """Return the system's time as an aware datetime in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the only place that reads the system's clock


def time_at(address: str) -> datetime:
    """Return the current time for clients of this address: the test authority's, or the system's."""
    return test_clocks.get(address, system_time)()


@dataclass(frozen=True, slots=True)
class Arrival:
    """The data of a request, as the framework gives it.

    Attributes:
        scheme: The scheme, as the server saw it.
        host: The `Host` header.
        peer: The address of the socket's other end, if it has one.
        header: Returns a header by its lower-case name, or "". Repeated headers are joined by commas, cookies by
            semicolons.
    """

    scheme: str
    host: str
    peer: str | None
    header: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Site:
    """The settings that all requests of a site share.

    Attributes:
        cookie: The session cookie.
        client_ip: The trusted proxies, and the forwarding header that they maintain.
        origin: The only origin that browsers see, for example "https://app.example", in its normal form. None: the
            origin follows from each request's scheme and `Host`.
        clock: A function that returns the current time, as an aware datetime.

    Raises:
        ValueError: The origin is not exactly one http or https origin.
    """

    cookie: SessionCookie = field(default_factory=SessionCookie)
    client_ip: ClientIp = field(default_factory=ClientIp)
    origin: str | None = None
    clock: Callable[[], datetime] = system_time

    def __post_init__(self) -> None:
        if self.origin is not None:
            object.__setattr__(self, "origin", site_origin(self.origin))
