"""A site whose app knows nothing about sessions: a proxy with TLS, the gateway, a WSGI app and an authority."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx

from session_authority import NewSession, testing
from tests.browser.devices import CHROME_ON_WINDOWS
from tests.support import proxies
from tests.support.certificates import TestAuthority
from tests.support.gateway import gateway_running, http_address
from tests.support.postgresql import free_port

ROOT = "/sessions"
COOKIE = "__Host-auth_session"
EXAMPLES = Path(__file__).parents[2] / "examples" / "proxies"
_GATEWAY = "127.0.0.1:50552"  # in the examples
_SECONDS = 60.0

_NGINX = """
server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate /etc/nginx/shop.pem;
    ssl_certificate_key /etc/nginx/shop.key;
    {page}
    location / {{ proxy_pass http://{upstream}; proxy_set_header Host $http_host; }}
}}
"""
_HAPROXY = """
defaults
    mode http
    timeout connect 60s
    timeout client 60s
    timeout server 60s
    default_backend app

frontend shop
    bind 127.0.0.1:{port} ssl crt /etc/session-authority/tls-with-key.pem
{page}

backend app
    server app {upstream}
"""
_TEMPLATES = {"nginx": _NGINX, "haproxy": _HAPROXY}


@dataclass
class Site:
    """The running site.

    Attributes:
        origin: The site's origin in browsers.
        authority: The authority that the gateway calls.
        address: The gateway's own address, behind the proxy.
        trusts: The certificates that a client of the proxy trusts.
    """

    origin: str
    authority: testing.Authority
    address: str
    trusts: ssl.SSLContext

    def browser(self, token: str | None = None, **headers: str) -> httpx.Client:
        """Return a browser with a session cookie. It follows no redirects."""
        if token is not None:
            headers["cookie"] = f"{COOKIE}={token}"
        return httpx.Client(
            base_url=self.origin, verify=self.trusts, headers=headers, timeout=_SECONDS
        )

    def sign_in(self, user_id: str, user_agent: str = CHROME_ON_WINDOWS, **details: Any) -> str:
        """Sign in without a browser, and return the token."""
        return self.new_session(user_id, user_agent, **details).token.reveal()

    def new_session(
        self, user_id: str, user_agent: str = CHROME_ON_WINDOWS, **details: Any
    ) -> NewSession:
        """Sign in without a browser."""
        return self.authority.sign_in(user_id, user_agent=user_agent, **details)

    def is_live(self, token: str) -> bool:
        """Ask the authority itself."""
        with self.authority.client() as client:
            return bool(client.validate(token, passive=True))

    def exchange(self, sent: bytes, *, to_gateway: bool = False) -> bytes:
        """Send bytes to the proxy or to the gateway, and return all bytes until it closes the connection."""
        host, port = (self.address if to_gateway else self.origin.rpartition("/")[2]).split(":")
        with socket.create_connection((host, int(port)), _SECONDS) as plain:
            if to_gateway:
                return _exchange(plain, sent)
            with self.trusts.wrap_socket(plain, server_hostname="localhost") as encrypted:
                return _exchange(encrypted, sent)


def _exchange(connection: socket.socket, sent: bytes) -> bytes:
    connection.sendall(sent)
    received = bytearray()
    while part := connection.recv(65_536):
        received += part
    return bytes(received)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the request's path and headers."""
    headers = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
    body = json.dumps({"path": environ["PATH_INFO"], "headers": headers}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def _upstream() -> Iterator[str]:
    with make_server("127.0.0.1", 0, app, handler_class=_Silent) as server:
        thread = threading.Thread(target=server.serve_forever, name="app")
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(_SECONDS)


@contextmanager
def running_site(
    proxy: str, example: str, folder: Path, *, maximum_age: timedelta | None = None, **settings: str
) -> Iterator[Site]:
    """Run a site behind nginx or HAProxy.

    Args:
        proxy: The proxy's name.
        example: The file of the proxy's examples with the lines for the page.
        folder: An empty folder.
        maximum_age: The authority's limit for the age of a proof of identity.
        settings: Settings of the gateway, without their prefix.
    """
    pair = TestAuthority(folder).pair()
    port = free_port()
    trusts = ssl.create_default_context(cafile=folder / "authority.pem")
    given = {"PAGE_PATH": ROOT, "SIGN_IN_URL": "/sign-in", **settings}
    with (
        testing.authority(max_authentication_age=maximum_age) as authority,
        gateway_running(folder, authority.address, settings=given) as program,
        _upstream() as upstream,
    ):
        address = http_address(program)
        template, page = _TEMPLATES[proxy], (EXAMPLES / proxy / example).read_text()
        configuration = template.format(
            port=port,
            page=page.replace(_GATEWAY, address),
            upstream=upstream,
        )
        with proxies.running(proxy, folder, pair, configuration, port):
            yield Site(f"https://localhost:{port}", authority, address, trusts)
        assert "Traceback" not in program.stderr, program.stderr
