"""The HTTP server: uvicorn, with limits on the size and the time of a request, and certificates that are reloaded."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from session_authority_server.config import split_address
from session_authority_server.rpc.certificates import CertificateFiles, UnusableCertificates

HEAD_LIMIT_BYTES = 128 * 1024
"""The largest request line with its headers. The cookies of a browser and a proxy's own headers fit in."""
RECEIVE_SECONDS = 60.0
"""How long a request may take to arrive, with its body. Then the gateway closes the connection."""
BACKLOG_CONNECTIONS = 2048
CONNECTIONS_LIMIT = 4096
"""How many connections a port keeps open. Further ones are closed at once."""

_log = structlog.get_logger("session_authority.gateway")
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """Limits the head of a request and the time in which a request arrives, and ignores trailers.

    The parser itself has no limits. It would also add the trailers of a chunked body to the headers, where a client's
    trailer could pass for a header that the proxy has set.
    """

    _in_head = True  # not yet in the body or the trailers
    _unused_bytes = 0  # bytes since the last complete head or part of a body
    _began: float | None = None  # when the request that is arriving began
    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect the first request, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_LIMIT:
            _log.warning("too many connections are open", limit=CONNECTIONS_LIMIT)
            transport.abort()
            return
        self._began = self.loop.time()
        self._watch = self.loop.call_later(RECEIVE_SECONDS, self._close_if_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the connection."""
        if self._began is None:
            self._began = self.loop.time()
        self._unused_bytes += len(data)
        if self._in_head and self._unused_bytes > HEAD_LIMIT_BYTES:
            self.transport.write(_TOO_LARGE)
            self.transport.close()
            return
        super().data_received(data)
        if self._unused_bytes > HEAD_LIMIT_BYTES:  # trailers, or not HTTP
            self.transport.close()

    def on_headers_complete(self) -> None:
        """Stop counting the head: the application limits the body."""
        self._in_head, self._unused_bytes = False, 0
        super().on_headers_complete()
        self.headers = []  # for trailers. The application has the list of the head, and never sees this one.

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body to the application."""
        self._unused_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect the next request."""
        self._in_head, self._unused_bytes, self._began = True, 0, None
        super().on_message_complete()

    def _close_if_slow(self) -> None:
        now = self.loop.time()
        if self._began is not None and now - self._began >= RECEIVE_SECONDS:
            self.transport.close()
        else:
            left = RECEIVE_SECONDS - (now - self._began if self._began is not None else 0)
            self._watch = self.loop.call_later(left, self._close_if_slow)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # The command handles signals, so uvicorn must not.


def listening_socket(address: str) -> socket.socket:
    """Return a socket that listens on an address such as `127.0.0.1:50552`.

    Raises:
        OSError: If the address can't be used.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG_CONNECTIONS)


@contextlib.asynccontextmanager
async def serving_http(
    application: ASGIApp,
    listening: socket.socket,
    context: ssl.SSLContext | None,
    drain_seconds: float,
) -> AsyncIterator[None]:
    """Serve an application while the context lasts, then let the requests in flight end.

    Args:
        application: The application.
        listening: The socket to accept connections from.
        context: The certificates, or None without TLS.
        drain_seconds: How long requests in flight may take at the end.
    """
    config = uvicorn.Config(
        application,
        http=BoundedHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    config.load()
    config.ssl = context
    server = _Server(config)
    running = asyncio.create_task(server.serve([listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await running


def tls_context(files: CertificateFiles) -> ssl.SSLContext:
    """Return a context that reads the certificates again, at a new connection, after their files have changed.

    Raises:
        UnusableCertificates: If the files can't be used.
    """
    fingerprint, current = files.fingerprint(), _read(files)

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal fingerprint, current
        found = files.fingerprint()
        if found != fingerprint:
            # Until the files fit together, the old certificates stay. The gRPC port logs why.
            with contextlib.suppress(UnusableCertificates):
                current, fingerprint = _read(files), found
        connection.context = current

    entry = _read(files)
    entry.sni_callback = choose
    return entry


def _read(files: CertificateFiles) -> ssl.SSLContext:
    files.read()  # checks the files
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)
    context.set_alpn_protocols(["http/1.1"])
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
