"""The HTTP port that serves metrics. The number of connections, and so of threads, is limited."""

import contextlib
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

CONNECTIONS_LIMIT = 16
IDLE_SECONDS = 5.0
"""How long a connection may take to send more of its request, or to take more of the answer."""


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves the metrics of this process.

    A connection beyond the limit closes the oldest one. So idle connections cannot block a scraper.
    """

    daemon_threads = True
    request_queue_size = 128  # The backlog of connections that are not accepted yet.

    def __init__(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: If the address can't be used.
        """
        [(family, _, _, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        self.address_family = family
        self._open: list[socket.socket] = []
        self._room = threading.BoundedSemaphore(CONNECTIONS_LIMIT)
        super().__init__((str(address[0]), port), _Handler)
        self.set_app(make_wsgi_app())

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        if not self._room.acquire(blocking=False):
            with contextlib.suppress(
                IndexError, OSError
            ):  # Close the oldest connection to make room. It may have ended already.
                self._open[0].shutdown(socket.SHUT_RDWR)
            self._room.acquire()
        self._open.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._open.remove(request)
        super().shutdown_request(request)
        self._room.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Log nothing about a connection that broke or was idle for too long."""
