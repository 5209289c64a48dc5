"""A web server that publishes the keys of a provider, on loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class KeySite:
    """A provider's web server. It answers with a status, headers and a body, by path.

    Attributes:
        address: Its address.
        asked: The paths that were asked for.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[str] = []
        self._answers: dict[str, tuple[int, dict[str, str], bytes]] = {}

    def put(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer a path. Headers have underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._answers[path] = (status, named, body)

    def clear(self) -> None:
        """Answer no path, and forget what was asked."""
        self._answers.clear()
        self.asked.clear()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        return self._answers.get(path, (404, {}, b""))


@contextmanager
def key_site() -> Iterator[KeySite]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = site.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site = KeySite(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()
