"""What is the same for all requests of a site, its clock too, and what a framework says of one request."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from session_authority.web.client_ip import ClientIp
from session_authority.web.cookies import SessionCookie
from session_authority.web.origin import site_origin

test_clocks: dict[str, Callable[[], datetime]] = {}
"""The clock of each running `testing.Authority`, by its address. Empty outside of tests."""


def system_time() -> datetime:
    """Return the time now, aware, in UTC."""
    return datetime.now(UTC)  # noqa: TID251 - the one place that asks the system


def time_at(address: str) -> datetime:
    """Return the time now by the clock that counts for clients of this address."""
    return test_clocks.get(address, system_time)()


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a framework tells of a request.

    Attributes:
        scheme: Its scheme, as the server saw it.
        host: Its `Host` header.
        peer: The address of the socket's other end, if it has one.
        header: Gives a header by its name in lower case, several joined by commas (cookies by semicolons),
            or "".
    """

    scheme: str
    host: str
    peer: str | None
    header: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Site:
    """What is the same for all requests of a site.

    Attributes:
        cookie: How its cookie looks.
        client_ip: Who is believed about addresses.
        origin: The one origin that browsers see, "https://app.example". It is kept in its normal form.
            None: each request's scheme and `Host` say it.
        clock: What time it is.

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
