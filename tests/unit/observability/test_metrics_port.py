"""Limits of connections to the metrics port."""

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from session_authority_server.observability import metrics_port
from session_authority_server.observability.metrics_port import CONNECTIONS_LIMIT, MetricsServer


@pytest.fixture
def port() -> Iterator[int]:
    with MetricsServer("127.0.0.1", 0) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server.server_port
        server.shutdown()
        serving.join()


def _page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_idle_connections_neither_block_a_scraper_nor_start_many_threads(
    port: int,
) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            for _ in range(5 * CONNECTIONS_LIMIT)
        ]
        for _ in range(3):
            assert "# HELP" in _page(port)
        assert threading.active_count() - before <= CONNECTIONS_LIMIT
        assert idle[0].recv(1) == b""  # the oldest connection was closed


def test_an_idle_connection_is_closed_after_a_timeout(
    port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics_port._Handler, "timeout", 0.05)
    with socket.create_connection(("127.0.0.1", port), 5) as idle:
        idle.sendall(b"GET /metrics HTTP/1.0\r\n")  # the request is incomplete
        assert idle.recv(1) == b""
    assert capfd.readouterr().err == ""
