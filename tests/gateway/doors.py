"""A proxy in front of a site, as a browser and a hostile client use it, and the headers that reach the site."""

import re
import socket

import httpx

from session_authority import NewSession
from session_authority.testing import Authority

HOST = "shop.example"
COOKIE = "__Host-auth_session"
_IDENTITY = re.compile(r"x.session.(?!token)", re.IGNORECASE)


class Door:
    """A proxy in front of the site."""

    def __init__(self, address: str, authority: Authority, http: httpx.Client) -> None:
        self.authority = authority
        self._http = http
        self.url = f"http://{address}"
        host, _, port = address.rpartition(":")
        self.address = host, int(port)

    def ask(
        self, path: str = "/", token: str = "", method: str = "GET", **headers: str
    ) -> httpx.Response:
        """Send a request with a session cookie. Headers have underscores for hyphens."""
        given = {"host": HOST} | {name.replace("_", "-"): it for name, it in headers.items()}
        if token:
            given["cookie"] = f"{COOKIE}={token}"
        return self._http.request(method, self.url + path, headers=given)

    def raw(self, *lines: str | bytes, request: str = "GET / HTTP/1.1") -> bytes:
        """Send a head as it is. Return all bytes of the answer, until the proxy closes the connection."""
        encoded = [each.encode() if isinstance(each, str) else each for each in lines]
        head = [
            request.encode(),
            f"Host: {HOST}".encode(),
            b"Connection: close",
            *encoded,
            b"",
            b"",
        ]
        with socket.create_connection(self.address, timeout=30) as connection:
            connection.sendall(b"\r\n".join(head))
            received = b""
            while data := connection.recv(65536):
                received += data
        return received


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def received(text: str) -> list[str]:
    """Return the lines with identity headers that reached the site, in any spelling."""
    lines = (line.strip() for line in text.splitlines())
    found = (line.partition(":") for line in lines if _IDENTITY.match(line))
    return sorted(f"{name.lower()}: {value.strip()}" for name, _, value in found)


def passed(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return received(answer.text)


def identity(new: NewSession, *more: str) -> list[str]:
    session = new.session
    time = session.authenticate_time.isoformat().replace("+00:00", "Z")
    methods = session.authentication_methods
    if methods:
        more = (*more, f"x-session-authentication-methods: {','.join(methods)}")
    return sorted(
        (
            f"x-session-authenticate-time: {time}",
            f"x-session-id: {session.session_id}",
            f"x-session-user-id: {session.user_id}",
            *more,
        )
    )
